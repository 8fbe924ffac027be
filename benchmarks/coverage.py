"""Every network of torchvision and many of timm: pruned, written, imported, compared.

    python -m benchmarks.coverage                          torchvision's
    python -m benchmarks.coverage --family timm            timm's
    python -m benchmarks.coverage --only resnet50 vgg16    these
    python -m benchmarks.coverage --write                  and docs/coverage.md from all rows so far

Of each network half of the parameters go; the file is imported in a fresh interpreter without
this project, loaded strictly, compared with the oracle in eval mode and trained for one step.
Rows are added to `build/coverage/rows.jsonl` as they come; `--resume` skips what is there.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.coverage_comparison import side_by_side
from benchmarks.coverage_networks import build, networks, torchvision_networks
from pruners import PrunerError, PruningResult, UnsupportedNetworkError, prune
from pruners.metrics import count_parameters
from pruners.model_writers import TEMPLATES
from pruners.verify import Case, Outcome, verify

ROWS = Path("build/coverage/rows.jsonl")
DOCUMENT = Path("docs/coverage.md")
PACKAGE = Path(prune.__code__.co_filename).parent

LARGEST_IN_FLOAT64 = 250_000_000
"""Parameters above which a network is compared in float32: full, silenced and slim at once, the
largest would take 20 GB in float64."""
PERCENTAGES = (50, 25, 10, 5)
BATCH_BYTES, BATCH_CASES = 300_000_000, 8
"""What waits for one start of the verifying interpreter."""

TITLES = {
    "classification": "torchvision, classification",
    "segmentation": "torchvision, segmentation",
    "video": "torchvision, video",
    "timm": "timm, convolutional families",
    "hybrid": "timm, families with attention in part",
}


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one network; figures that it did not come to are zero or empty."""

    family: str
    name: str
    reason: str = "not verified"
    """Why it failed, in one line; empty where it did not."""
    before: int = 0
    after: int = 0
    """Parameters."""
    lines: int = 0
    warnings: int = 0
    oracle: str = ""
    error: float = 0.0
    tolerance: float = 0.0
    seconds: float = 0.0
    """Of process time, for the source."""
    export: str = ""
    """`yes`, `not on the original`, or why not."""
    code: str = ""
    """Digest of this project's code that made the row."""

    @property
    def ok(self) -> bool:
        return not self.reason

    @property
    def removed_pct(self) -> float:
        return 100 * (self.before - self.after) / self.before if self.before else 0.0


def prepare(family: str, name: str) -> tuple[Row, Case | None]:
    """Prune a network and write its source; without a case where that failed."""
    row = Row(family, name, code=code_digest())
    try:
        model, example = build(family, name)
        row = replace(row, before=count_parameters(model))
        if row.before <= LARGEST_IN_FLOAT64:
            model, example = model.double(), example.double()
        result = _pruned(model, example, name)
        start = time.process_time()
        source = result.source
        row = replace(
            row,
            seconds=time.process_time() - start,
            lines=len(source.splitlines()),
            after=result.report.parameters.after,
            warnings=len(result.report.warnings),
        )
        case = result.case()
        row = replace(row, oracle=case.oracle, tolerance=case.tolerance)
        return replace(row, export=_exported(model, result, example)), case
    except Exception as error:
        return replace(row, reason=described(error)), None


def _pruned(model: nn.Module, example: Tensor, name: str) -> PruningResult:
    """Half of the parameters gone; where so much cannot go, the most of PERCENTAGES that can."""
    first: PrunerError | None = None
    for percent in PERCENTAGES:
        try:
            return prune(model, example, percent, name=f"{_identifier(name)}_{percent}")
        except UnsupportedNetworkError:
            raise
        except PrunerError as error:
            first = first or error
    assert first is not None
    raise first


def _exported(model: nn.Module, result: PruningResult, example: Tensor) -> str:
    why = _export_failure(lambda: result.model, example)
    if not why:
        return "yes"
    return "not on the original" if _export_failure(lambda: model, example) else f"no: {why}"


def _export_failure(built: Callable[[], nn.Module], example: Tensor) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.export(built(), (example,))
    except Exception as error:
        return described(error)
    return ""


def described(error: Exception) -> str:
    """One line; of an exception that is not for users, also where in the project it was raised."""
    text = f"{type(error).__name__}: {one_line(str(error))}"
    frames = traceback.extract_tb(error.__traceback__)
    here = [f for f in frames if Path(f.filename).is_relative_to(PACKAGE)]
    if isinstance(error, PrunerError) or not here:
        return text
    return f"{text} ({Path(here[-1].filename).name}, in {here[-1].name})"


def finished(row: Row, outcome: Outcome) -> Row:
    """The row, with what the fresh process found."""
    message = one_line(outcome.message.partition("; printed last:")[0])
    reason = "" if outcome.ok else f"verification: {message}"
    error = outcome.error if outcome.error < float("inf") else 0.0
    return replace(row, reason=reason, error=error)


def sweep(wanted: Iterable[tuple[str, str]]) -> Iterator[list[Row]]:
    """The rows of these networks, as they become known; several are verified at once."""
    waiting: list[tuple[Row, Case]] = []
    for family, name in wanted:
        row, case = prepare(family, name)
        gc.collect()
        if case is None:
            yield [row]
            continue
        waiting.append((row, case))
        size = sum(len(case.weights) for _, case in waiting)
        if len(waiting) == BATCH_CASES or size > BATCH_BYTES:
            yield _verified(waiting)
            waiting = []
    yield _verified(waiting)


def _verified(waiting: Sequence[tuple[Row, Case]]) -> list[Row]:
    outcomes = verify([case for _, case in waiting])
    return [finished(row, outcome) for (row, _), outcome in zip(waiting, outcomes, strict=True)]


def _identifier(name: str) -> str:
    return re.sub(r"\W", "_", name)


def one_line(text: str) -> str:
    """The first line of a message, without the folders of this machine."""
    first = next((line for line in text.splitlines() if line.strip()), "")
    return re.sub(r"(?<![\w.])/(?:[\w.+-]+/)+", "", " ".join(first.split()))[:300]


@cache
def code_digest() -> str:
    """Of the package's files: rows of different code do not belong into one table."""
    files = sorted((*PACKAGE.glob("*.py"), *TEMPLATES.glob("*.j2")))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()[:12]


# --- the document ------------------------------------------------------------------------------


def document(rows: Sequence[Row]) -> str:
    """docs/coverage.md."""
    parts = [
        "# Coverage",
        "",
        "Of every network half of the parameters go (`pruners.prune(model, x, 50)`), or fewer",
        "where the analysis leaves too many in place. The file is imported in a fresh interpreter",
        "without this project, built, loaded strictly, compared in eval mode with the",
        "[oracle](architecture.md), and trained for one step. Weights and batch-norm statistics",
        "are random. *error* is the largest difference relative to the largest output, to be below",
        "1e-12 in float64, and below 1e-5 in float32, in which the largest networks are compared;",
        "*warnings* are those of the report; *writer* is seconds of process time for the source;",
        "*export* says whether `torch.export` takes the generated network.",
        "",
        "Made by `make coverage` (`python -m benchmarks.coverage --family all --write`), with",
        f"{_versions()}.",
        "",
        "| family | written and verified | with half gone | `torch.export` as the original |",
        "| --- | ---: | ---: | ---: |",
    ]
    known = networks()
    by_family = {family: [r for r in rows if r.family == family] for family in known}
    for family, found in by_family.items():
        if not found:
            parts.append(f"| {TITLES[family]} | not run with this code | | |")
            continue
        good = [r for r in found if r.ok]
        same = sum(not r.export.startswith("no:") for r in good)
        total = len(known[family])
        half = sum(r.removed_pct >= PERCENTAGES[0] for r in good)
        parts.append(
            f"| {TITLES[family]} | {len(good)}/{total} | {half}/{total} | {same}/{total} |"
        )
    for family, found in by_family.items():
        if found:
            parts += ["", f"## {TITLES[family]}", "", *_table(found)]
    parts += ["", *side_by_side()]
    return "\n".join(parts) + "\n"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| network | parameters | gone | lines | warnings | oracle | error | writer | export |"
    yield "| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | --- |"
    for row in rows:
        if row.ok:
            single = " (float32)" if row.tolerance > 1e-12 else ""
            yield (
                f"| {row.name} | {row.before:,} → {row.after:,} | {row.removed_pct:.1f} % "
                f"| {row.lines} | {row.warnings} | {row.oracle} | {row.error:.1e}{single} "
                f"| {row.seconds:.2f} s | {_cell(row.export)} |"
            )
    failed = [row for row in rows if not row.ok]
    if failed:
        yield from ("", "Not written, or not verified:", "", "| network | why |", "| --- | --- |")
        yield from (f"| {row.name} | {_cell(row.reason)} |" for row in failed)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _versions() -> str:
    found = []
    for package in ("torch", "torchvision", "timm"):
        try:
            # The local part of a version says for which accelerator, and nothing depends on it.
            found.append(f"{package} {version(package).partition('+')[0]}")
        except PackageNotFoundError:
            found.append(f"no {package}")
    return f"{', '.join(found[:-1])} and {found[-1]}"


# --- rows on disk ------------------------------------------------------------------------------


def read_rows(path: Path) -> list[Row]:
    """The newest row of every network, in the order of `networks()`."""
    if not path.exists():
        return []
    rows = [Row(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]
    newest = {(row.family, row.name): row for row in rows}
    order = [(family, name) for family, names in networks().items() for name in names]
    return [newest[key] for key in order if key in newest]


def append_rows(path: Path, rows: Sequence[Row]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(asdict(row)) + "\n")


def shown(row: Row) -> str:
    if not row.ok:
        return f"{row.name:28} FAILED  {row.reason}"
    return (
        f"{row.name:28}{row.before:12,} ->{row.after:12,}{row.lines:6} lines{row.error:9.1e} "
        f"{row.oracle:7}{row.seconds:6.2f} s  export: {row.export}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    known = networks()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=__doc__)
    families = ("torchvision", "all", *known)
    parser.add_argument("--family", choices=families, default="torchvision")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these networks alone")
    parser.add_argument("--resume", action="store_true", help="skip what has a row")
    parser.add_argument("--retry", action="store_true", help="as --resume, but failures again")
    parser.add_argument("--write", action="store_true", help=f"make {DOCUMENT} from all rows")
    parser.add_argument("--rows", type=Path, default=ROWS, metavar="FILE")
    options = parser.parse_args(arguments)
    taken = {
        "all": tuple(known),
        "torchvision": tuple(torchvision_networks()),
    }.get(options.family, (options.family,))
    wanted = [(family, name) for family in taken for name in known[family]]
    if options.only:
        odd = [name for name in options.only if name not in {n for _, n in wanted}]
        if odd:
            parser.error(f"--only {odd[0]}: no such network in --family {options.family}")
        wanted = [(family, name) for family, name in wanted if name in options.only]
    if options.resume or options.retry:
        rows = read_rows(options.rows)
        done = {(row.family, row.name) for row in rows if row.ok or not options.retry}
        wanted = [key for key in wanted if key not in done]
    torch.set_num_threads(1)
    if wanted:
        prepare("classification", "squeezenet1_1")  # what is done once is not measured
    for rows in sweep(wanted):
        append_rows(options.rows, rows)
        for row in rows:
            print(shown(row), flush=True)
    if options.write:
        rows = read_rows(options.rows)
        old = [row.name for row in rows if row.code != code_digest()]
        if old:
            what = f"{len(old)} of {len(rows)} rows ({old[0]}, ...)"
            print(f"note: {what} were made by other code; run them again", file=sys.stderr)
        DOCUMENT.write_text(document(rows), "utf-8")


if __name__ == "__main__":
    main()
