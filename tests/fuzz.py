"""Random networks, the whole way: pruned, written, imported in a fresh interpreter, compared.

python -m tests.fuzz                            2,000 networks on two cores (make test-fuzz)
python -m tests.fuzz --seed 7 --networks 300    others
python -m tests.fuzz --only 17                  number 17 of the same run alone
python -m tests.fuzz --again FILE.py            what a failure has left, once more

The networks grow with their number (`fuzz_networks.py`). Fifty at a time go to one fresh
`python -I`, in which neither this project nor the folder of the originals can be imported. They are
compared there with the original in which everything removed was set to zero by hand
(`oracle.silenced`), or, where operators count channels, with those restricted to what stays. What
was written is held against the promises, too: the same keys, and every tensor the original's at the
kept indices.

Beside the fifty goes one that is made wrong on purpose: a run that does not find it ends at once.

One in float32 that differs is compared in float64 as well: layers that cancel let float32 round by
more than its tolerance, and a wrong index is as wrong there.

A failure is made smaller, piece by piece and then line by line, as long as it fails in the same
way, and saved under build/fuzz with the seed, the options and what was said.
"""

from __future__ import annotations

import argparse
import ast
import copy
import dataclasses
import io
import json
import multiprocessing
import random
import re
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruners import PrunerError, PruningResult, prune
from pruners.loading import class_from_file
from pruners.replay import restricted
from pruners.tracing import map_tensors
from pruners.verify import Case, tells, verify, with_telling_state
from pruners.verify_child import MismatchError, compare, flatten_output
from tests.fuzz_networks import Sketch, drawn, simpler, source
from tests.oracle import silenced

BATCH = 50
SECONDS = 300
"""Of computing that one network may take: a busy machine is no failure."""
SHRINKING = 240.0
"""Seconds that a failure may be made smaller for."""
FOLDER = Path("build/fuzz")

EXACT, NOTHING, SILENT = "exact", "nothing to remove", "silent"
ROUNDED = "exact in float64 only"
INEXACT, REFUSED, CRASHED = "not exact", "refused", "crashed"

Options = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Subject:
    """A network as source, and how it is pruned."""

    text: str
    inputs: int
    dtype: str
    options: Options

    @classmethod
    def of(cls, sketch: Sketch) -> Subject:
        return cls(source(sketch), sketch.inputs, sketch.dtype, sketch.options)


@dataclass(frozen=True)
class Verdict:
    """What became of a network; `case` is still to be compared in a fresh interpreter."""

    kind: str
    message: str = ""
    case: Case | None = None
    fresh: bool = False
    """Whether only a fresh interpreter saw it."""

    @property
    def ok(self) -> bool:
        return self.kind in (EXACT, ROUNDED, NOTHING, SILENT)

    def same(self, other: Verdict) -> bool:
        """Whether both failed in the same way; numbers and names in messages may differ."""
        return self.kind == other.kind and _shape_of(self.message) == _shape_of(other.message)


def _shape_of(message: str) -> str:
    return re.sub(r"[\d.]+(e[+-]\d+)?|\b\w*\d\w*\b|'[^']*'", "_", message)[:60]


@dataclass(frozen=True)
class Failure:
    number: int
    verdict: Verdict
    path: Path
    lines: int


# --- one network --------------------------------------------------------------------------------


def subject(seed: int, number: int, networks: int) -> tuple[Sketch, Subject]:
    """The network of that number, the first of those drawn for it that runs."""
    growth = number / max(networks - 1, 1)
    for attempt in range(100):
        sketch = drawn(random.Random(f"{seed}:{number}:{attempt}"), growth)
        found = Subject.of(sketch)
        if runs(found):
            return sketch, found
    raise RuntimeError(f"seed {seed}, number {number}: no network of a hundred runs")


def runs(given: Subject) -> bool:
    """Whether the network itself can be built and run, in both modes."""
    try:
        namespace: dict[str, Any] = {"__name__": "__fuzz__"}
        sys.modules["__fuzz__"] = type(sys)("__fuzz__")  # a dataclass looks its module up
        exec(compile(given.text, "<drawn>", "exec"), namespace)
        model = namespace["Net"]()
        with torch.no_grad():
            model.train()(*_inputs(given, torch.float32))
            model.eval()(*_inputs(given, torch.float32))
    except Exception:
        return False
    finally:
        sys.modules.pop("__fuzz__", None)
    return True


def _inputs(given: Subject, dtype: torch.dtype) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(len(given.text))
    return tuple(
        torch.randn(2, 3, 8, 8, generator=generator).to(dtype) for _ in range(given.inputs)
    )


def examine(given: Subject, folder: Path, name: str) -> Verdict:
    """Prune it and write its files; compare what this process can compare."""
    warnings.simplefilter("ignore")
    try:
        with no_longer_than(SECONDS):
            return _examined(given, folder, name)
    except PrunerError as error:
        return Verdict(REFUSED, f"{type(error).__name__}: {error}")
    except Exception as error:
        return Verdict(CRASHED, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def _examined(given: Subject, folder: Path, name: str) -> Verdict:
    home = folder / "originals"
    home.mkdir(parents=True, exist_ok=True)
    path = home / f"{name}.py"
    path.write_text(given.text, encoding="utf-8")
    dtype = torch.float32 if given.dtype == "float32" else torch.float64
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built = class_from_file(path, "Net")()
    # Signals that die away on the way would hide whatever is wrong.
    model = with_telling_state(built.to(dtype).eval())
    x = _inputs(given, dtype)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.no_grad():
        told = model(*x)
    result = as_much_as_possible(model, x, dict(given.options))
    if result is None:
        return Verdict(NOTHING)
    out = folder / name
    # Verified below, with another oracle and many networks at a time.
    saved = result.save(out, out / "pruned", verify=False)
    for key, value in model.state_dict().items():
        if not torch.equal(value, before[key]):
            return Verdict(INEXACT, f"the original was changed: {key}")
    weights = saved.weights.read_bytes()
    if wrong := _broken_promise(before, weights, json.loads(saved.manifest.read_bytes())):
        return Verdict(INEXACT, wrong)
    if result.counted:
        expected = restricted(model, result.trace, result.kept)
    else:
        with torch.no_grad():
            expected = silenced(model, result.kept)(*x)
    case = dataclasses.replace(
        result.case(),
        source=saved.source.read_text("utf-8"),
        weights=weights,
        weights_name=saved.weights.name,
        expected=map_tensors(expected, lambda tensor: tensor.detach().clone()),
        forbidden=(name, str(home)),
    )
    case = dataclasses.replace(case, tolerance=tolerance(case.tolerance, result.model.eval(), x))
    try:
        with torch.no_grad():
            got = flatten_output(result.model.eval()(*(value.clone() for value in x)))
        error = compare(got, flatten_output(expected))
    except MismatchError as mismatch:
        return Verdict(INEXACT, str(mismatch))
    if not error <= case.tolerance:
        return Verdict(INEXACT, f"the output differs from the oracle by {error:.1e}")
    if not tells(told, case.tolerance):
        # Any network would do: there is nothing to be seen in this comparison.
        return Verdict(SILENT)
    return Verdict(EXACT, case=case)


def tolerance(usual: float, slim: nn.Module, x: tuple[Tensor, ...]) -> float:
    """The usual one, or what the network itself makes of weights that are rounded differently.

    Products of products magnify the last bit until it is seen; a wrong index is seen from afar.
    """
    generator = torch.Generator().manual_seed(0)
    nearly = copy.deepcopy(slim)
    with torch.no_grad():
        for value in nearly.state_dict().values():
            if value.is_floating_point():
                signs = torch.randn(value.shape, generator=generator).sign().to(value.dtype)
                value.mul_(1 + torch.finfo(value.dtype).eps * signs)
        there, here = (flatten_output(each(*(v.clone() for v in x))) for each in (nearly, slim))
    try:
        magnified = compare(there, here)
    except MismatchError:  # told below, of the network itself
        return usual
    return max(usual, min(10 * magnified, 1000 * usual))


def _broken_promise(before: dict[str, Tensor], weights: bytes, facts: dict[str, Any]) -> str:
    """Promise 4: the same keys, and tensors that are the original's at the kept indices."""
    slim = torch.load(io.BytesIO(weights), weights_only=True)
    if list(slim) != list(before):
        return "the weights have other keys than the original"
    for key, tensor in slim.items():
        kept = [np.asarray(indices, dtype=np.int64) for indices in facts["kept"][key]]
        if any((np.diff(indices) <= 0).any() for indices in kept):
            return f"kept indices of {key} do not ascend"
        expected = before[key]
        for dim, indices in enumerate(kept):
            expected = expected.index_select(dim, torch.as_tensor(indices))
        if not torch.equal(tensor, expected):
            return f"{key} is not the original at the kept indices"
    return ""


def as_much_as_possible(
    model: nn.Module, x: tuple[Tensor, ...], options: dict[str, Any]
) -> PruningResult | None:
    """As asked, or what can go where that is less; None where nothing can."""
    pct = options.pop("prune_pct", 50)
    options.setdefault("min_filters", 1)
    for _ in range(3):
        try:
            return prune(model, x, pct, **options)
        except PrunerError as error:
            text = str(error)
            if "has no channel that could be removed" in text:
                return None
            most = re.search(r"at most ([\d.]+) percent|removes ([\d.]+) percent", text)
            if most is None:
                raise
            pct = 0.9 * float(most[1] or most[2])
            if pct == 0:
                return None
    return prune(model, x, pct / 2, **options)


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"took longer than {seconds} s")

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


# --- many ---------------------------------------------------------------------------------------


def judged(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """What a fresh interpreter says of those that have come so far; it must find a wrong one."""
    waiting = [i for i, verdict in enumerate(verdicts) if verdict.case is not None]
    cases = [case for verdict in verdicts if (case := verdict.case) is not None]
    final = [dataclasses.replace(verdict, case=None) for verdict in verdicts]
    if not cases:
        return final
    *outcomes, wrong = verify([*cases, made_wrong(cases[0])], timeout=SECONDS)
    if wrong.ok:
        raise RuntimeError("a network with a wrong weight passes: this run would find nothing")
    for i, outcome in zip(waiting, outcomes, strict=True):
        if not outcome.ok:
            final[i] = Verdict(INEXACT, outcome.message, fresh=True)
    return final


def in_float64(given: Subject, verdict: Verdict, folder: Path, name: str) -> Verdict:
    """What is said of a network in float32 that differs, once it is in float64.

    Layers that cancel let float32 round by more than its tolerance; a wrong index is as wrong in
    float64.
    """
    if given.dtype != "float32" or verdict.kind != INEXACT:
        return verdict
    double = dataclasses.replace(given, dtype="float64")
    (again,) = judged([examine(double, folder, name)])
    return dataclasses.replace(again, kind=ROUNDED) if again.kind == EXACT else verdict


def made_wrong(case: Case) -> Case:
    """The same with two entries of its last layer's bias exchanged."""
    weights = torch.load(io.BytesIO(case.weights), weights_only=True)
    last = next(key for key in reversed(weights) if key.startswith("fc"))
    weights[last] = weights[last].roll(1)
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return dataclasses.replace(case, weights=buffer.getvalue())


def run_batch(
    seed: int, numbers: Sequence[int], networks: int, folder: Path
) -> list[tuple[int, Verdict, Failure | None]]:
    """Each of these networks, what became of it, and what a failure was made into."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        place = Path(name)
        found = [subject(seed, number, networks) for number in numbers]
        verdicts = judged(
            [
                examine(given, place, f"drawn_{seed}_{number}")
                for number, (_, given) in zip(numbers, found, strict=True)
            ]
        )
        results = []
        for number, (sketch, given), told in zip(numbers, found, verdicts, strict=True):
            verdict = told if told.ok else in_float64(given, told, place, f"double_{seed}_{number}")
            failure = None
            if not verdict.ok:
                small, said = shrunk(sketch, verdict, place)
                path = write_failure(folder, seed, number, networks, small, said)
                failure = Failure(number, said, path, small.text.count("\n"))
            results.append((number, verdict, failure))
    return results


def run(
    seed: int,
    numbers: Sequence[int],
    networks: int,
    folder: Path = FOLDER,
    processes: int = 1,
    say: Callable[[str], None] = print,
) -> tuple[Counter[str], list[Failure]]:
    """All of these numbers; counts by what became of them, and the failures."""
    # Every batch has small and large ones, so that the processes end together.
    batches = -(-len(numbers) // BATCH)
    parts = [numbers[i::batches] for i in range(batches)]
    counts: Counter[str] = Counter()
    failures: list[Failure] = []
    began = time.perf_counter()

    def take(results: list[tuple[int, Verdict, Failure | None]]) -> None:
        for _, verdict, failure in results:
            counts[verdict.kind] += 1
            if failure is not None:
                failures.append(failure)
                say(f"number {failure.number}: {failure.verdict.kind}: {failure.verdict.message}")
                say(f"  {failure.path}, {failure.lines} lines")
        each = (time.perf_counter() - began) / counts.total()
        say(f"{counts.total()} of {len(numbers)}: {_counted(counts)}; {each:.2f} s each")

    if processes == 1:
        for part in parts:
            take(run_batch(seed, part, networks, folder))
        return counts, failures
    one = partial(run_batch, seed, networks=networks, folder=folder)
    # Modules of drawn networks stay in memory: a process does a few batches, and ends. (An executor
    # of concurrent.futures waits for ever when its last process of Python 3.11 does so.)
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=4) as pool:
        for results in pool.imap(one, parts):
            take(results)
    return counts, failures


def _counted(counts: Counter[str]) -> str:
    failing = counts[INEXACT] + counts[REFUSED] + counts[CRASHED]
    text = (
        f"{counts.total() - counts[NOTHING]} pruned, {counts[EXACT]} exact, {failing} failing, "
        f"{counts[NOTHING]} with nothing to remove"
    )
    # The output of silent ones does not depend on the input, so that a comparison shows nothing.
    return text + "".join(f", {counts[kind]} {kind}" for kind in (ROUNDED, SILENT) if counts[kind])


# --- making a failure smaller -------------------------------------------------------------------


def shrunk(sketch: Sketch, failed: Verdict, place: Path) -> tuple[Subject, Verdict]:
    """The smallest that was found to fail in the same way, and what it says."""
    deadline = time.monotonic() + SHRINKING
    tried = 0

    def still_fails(given: Subject) -> Verdict | None:
        nonlocal tried
        tried += 1
        if not runs(given):
            return None
        verdict = examine(given, place / "smaller", f"smaller_{len(sketch.nodes)}_{tried}")
        if verdict.case is not None and failed.fresh:
            (verdict,) = judged([verdict])
        return verdict if not verdict.ok and verdict.same(failed) else None

    best, said = Subject.of(sketch), failed
    progress = True
    while progress and time.monotonic() < deadline:
        progress = False
        for candidate in simpler(sketch):
            if time.monotonic() > deadline:
                break
            verdict = still_fails(Subject.of(candidate))
            if verdict is not None:
                sketch, best, said, progress = candidate, Subject.of(candidate), verdict, True
                break
    progress = True
    while progress and time.monotonic() < deadline:
        progress = False
        for text in fewer_lines(best.text):
            if time.monotonic() > deadline:
                break
            given = dataclasses.replace(best, text=text)
            verdict = still_fails(given)
            if verdict is not None:
                best, said, progress = given, verdict, True
                break
    return best, said


def fewer_lines(text: str) -> Iterator[str]:
    """The file without one of its classes, functions or statements, large ones first."""
    lines = text.splitlines(keepends=True)
    nodes = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.stmt) and not isinstance(node, ast.Return)
    ]
    for node in sorted(nodes, key=lambda node: (node.lineno - (node.end_lineno or 0), node.lineno)):
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", ()))])
        rest = "".join(lines[: first - 1] + lines[node.end_lineno :])
        rest = re.sub(r"\n{4,}", "\n\n\n", rest).lstrip("\n")
        try:
            ast.parse(rest)
        except SyntaxError:
            continue
        yield rest


def write_failure(
    folder: Path, seed: int, number: int, networks: int, given: Subject, said: Verdict
) -> Path:
    """Save a failing network as a file that `--again` takes."""
    facts = {"inputs": given.inputs, "dtype": given.dtype, "options": dict(given.options)}
    path = folder / f"seed{seed}_number{number}.py"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"# Seed {seed}, number {number} of {networks}, made smaller: {said.kind}.\n"
        f"# {said.message}\n"
        f"# python -m tests.fuzz --again {path.name}\n"
        f"# python -m tests.fuzz --seed {seed} --networks {networks} --only {number}\n"
        f"# {json.dumps(facts)}\n{given.text}",
        encoding="utf-8",
    )
    return path


def read_failure(path: Path) -> Subject:
    text = path.read_text("utf-8")
    found = re.search(r"^# (\{.*\})$", text, re.MULTILINE)
    if found is None:
        raise PrunerError(f"{path}: no file of a failure; expected a line `# {{...}}` in it")
    facts = json.loads(found[1])
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in facts["options"].items()}
    return Subject(text, facts["inputs"], facts["dtype"], tuple(options.items()))


# --- the command --------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Random networks.")
    parser.add_argument("--networks", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", type=int, help="this number alone")
    parser.add_argument("--again", type=Path, metavar="FILE", help="what a failure has left")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where failures are saved")
    given = parser.parse_args(arguments)
    if given.again is not None:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
            (verdict,) = judged([examine(read_failure(given.again), Path(name), "again")])
        print(f"{given.again}: {verdict.kind}{': ' if verdict.message else ''}{verdict.message}")
        return 0 if verdict.ok else 1
    numbers = range(given.networks) if given.only is None else [given.only]
    began = time.perf_counter()
    counts, failures = run(
        given.seed,
        numbers,
        given.networks,
        given.folder,
        given.processes if given.only is None else 1,
        lambda text: print(text, flush=True),
    )
    minutes = (time.perf_counter() - began) / 60
    print(f"seed {given.seed}: {counts.total()} networks in {minutes:.1f} minutes")
    print(_counted(counts))
    for failure in failures:
        print(f"{failure.path}: {failure.verdict.kind}: {failure.verdict.message}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
