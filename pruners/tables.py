"""Results, as tables and as JSON."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pruners.channel_graph import ChannelGraph
from pruners.descent import Descent, descents, parents_of
from pruners.evaluation import Evaluation
from pruners.job import Finished
from pruners.libraries import OFFERED
from pruners.measures import CALIBRATED, arguments_of, needs
from pruners.methods import TARGETS
from pruners.model_store import Finding, ModelStore, Parent, StoredVersion
from pruners.networks import takes_any_image
from pruners.progress import printable
from pruners.registry import DATASETS, MODELS, PRUNING_METHODS, SCORING_MEASURES
from pruners.report import Report, manifest, source_manifest
from pruners.screen import Bar, Branch, Column, Sheet, figures, show, terminal
from pruners.training_job import Trained
from pruners.tuning import Tuned, rank_of
from pruners.verify import Outcome
from pruners.write_source import WrittenSource
from pruners.written import Saved

_MADE_FROM = "what they are made from, and their figures"
_STAGES = {"pruned": "yellow", "quantized": "cyan", "final": "green"}
"""Colours of the stages of a model store, on a terminal."""


def percent_right(figures: Evaluation) -> str:
    """The accuracy, where there is one."""
    return "" if figures.accuracy is None else f"{figures.accuracy:.1f} %"


def as_json(value: Any) -> str:
    """One JSON object; refuses what JSON cannot hold (NaN)."""
    return json.dumps(value, indent=2, allow_nan=False)


def files_of(finished: Finished) -> dict[str, tuple[str, str]]:
    """The files of a run: path, and what it is."""
    saved, again = finished.saved, finished.tuned_saved
    if saved is None:
        return {}
    source = (str(saved.source), f"the slim network, {_imports(finished.result.source)}")
    facts = (str(saved.manifest), "what was removed and why, figures before and after")
    files = {"source": source, "manifest": facts}
    files["weights"] = (str(saved.weights), "its weights (a plain state_dict)")
    files["weights_manifest"] = (str(saved.stored.manifest_path), _MADE_FROM)
    if again is not None:
        tuned = finished.stages is not None and finished.stages.finetuned is not None
        kind, what = ("finetuned", "fine-tuned") if tuned else ("recalibrated", "recalibrated")
        files[f"{kind}_weights"] = (str(again.weights), f"its weights, {what}")
        manifest_path = str(again.stored.manifest_path)
        files[f"{kind}_weights_manifest"] = (manifest_path, _MADE_FROM)
    return files


def described(finished: Finished) -> dict[str, Any]:
    """All that a run found out, as plain values."""
    facts = manifest(finished.result.report, {}, finished.outcome, {})
    # The indices are long, and stand in the manifest.
    del facts["kept"]
    facts["weights"] = finished.network.weights
    facts["files"] = {kind: path for kind, (path, _) in files_of(finished).items()}
    facts["dry_run"] = finished.saved is None
    facts["test_accuracy"] = finished.stages and finished.stages.accuracies()
    facts["evaluation"] = finished.stages and finished.stages.described()
    return facts


def show_files(files: Mapping[str, tuple[str, str]]) -> None:
    """The names of the files, and what they are."""
    if terminal() is not None:
        table = Sheet((Column(""), Column("", "words")), titled=False)
        for path, what in files.values():
            table.add_row(path, what)
        return show(table)
    width = max((len(path) for path, _ in files.values()), default=0)
    for path, what in files.values():
        print(f"{path:{width}}  {what}")
    return None


def show_result(finished: Finished) -> None:
    """The names of the files, and the figures; on a terminal, what became of every layer."""
    report, stages = finished.result.report, finished.stages
    if terminal() is not None:
        # First, so that the figures stand where the eye is when the command is done.
        show(layers_of(report))
        print()
    if finished.saved is not None:
        show_files(files_of(finished))
        print()
    titles = [Column(title, "number") for title in ("before", "after", "removed")]
    table = Sheet((Column(""), *titles, Column("kept", "bar")))
    for name, change in (("parameters", report.parameters), ("MACs", report.macs)):
        removed, bar = f"{change.removed_pct:.1f} %", Bar(change.after, change.before)
        table.add_row(name, f"{change.before:,}", f"{change.after:,}", removed, bar)
    if stages is not None:
        name = f"test accuracy, {stages.dataset}"
        table.add_row(name, percent_right(stages.before), percent_right(stages.pruned), "")
        for name, later in (
            ("  recalibrated", stages.recalibrated),
            ("  fine-tuned", stages.finetuned),
        ):
            if later is not None:
                table.add_row(name, "", percent_right(later), "")
    show(table)
    outcome = finished.outcome
    print(
        f"\nverified: differs from the {outcome.oracle} original by {outcome.error:.1e} "
        f"(relative; tolerance {outcome.tolerance:.0e}){_also(outcome)}"
    )


def layers_of(report: Report) -> Sheet:
    """What every layer lost of its output channels, and why some lost none."""
    counts = [Column(title, "number") for title in ("channels", "kept")]
    columns = [Column("layer"), *counts, Column("", "bar")]
    if report.kept_because:
        # The manifest tells it as well.
        columns.append(Column("because", "words", optional=True))
    sheet = Sheet(tuple(columns))
    for layer, width in report.widths.items():
        because = [printable(report.kept_because.get(layer, ""))] if report.kept_because else []
        counted = f"{width.before:,}", f"{width.after:,}"
        sheet.add_row(printable(layer), *counted, Bar(width.after, width.before), *because)
    return sheet


def _also(outcome: Outcome) -> str:
    """How else the two were compared, and why."""
    text = ""
    if outcome.random_weights:
        text += "; its output hardly depends on the input, so random weights were compared as well"
    if outcome.float32_error is not None:
        text += (
            f"; its layers magnify what float32 rounds to {outcome.float32_error:.1e}, so this "
            f"figure is of float64"
        )
    if outcome.eval_only:
        text += f"; in eval mode only, as the given network cannot be trained ({outcome.eval_only})"
    return text


def described_trials(tuned: Tuned, trained: Trained, out: Path | None) -> dict[str, Any]:
    """What tuning found out, as plain values; the best trial first."""
    return {
        "network": trained.network.name,
        "dataset": trained.dataset,
        "trials": [asdict(trial) for trial in sorted(tuned.trials, key=rank_of)],
        "best": {"lr": tuned.best.lr, "weight_decay": tuned.best.weight_decay},
        "test_accuracy": round(trained.test_accuracy, 2),
        "weights": None if out is None else str(out),
    }


def show_trials(tuned: Tuned, trained: Trained, out: Path | None) -> None:
    """The trials, the best first, and how good that is on images that had no part in the choice."""
    table = figures("", "lr", "weight decay", "validation", "training loss", "best epoch")
    for trial in sorted(tuned.trials, key=rank_of):
        row = ["best" if trial is tuned.best else "", f"{trial.lr:g}", f"{trial.weight_decay:g}"]
        if trial.val_accuracy is None or trial.loss is None:
            table.add_row(*row, "diverged")
        else:
            table.add_row(
                *row, f"{trial.val_accuracy:.2f} %", f"{trial.loss:.4f}", str(trial.best_epoch)
            )
    show(table)
    print(f"\n{'' if out is None else f'{out}  '}{trained.described()}")


def written_files(result: WrittenSource, saved: Saved) -> dict[str, tuple[str, str]]:
    """The files of a network that was written as it is: path, and what it is."""
    return {
        "source": (str(saved.source), f"the network, {_imports(result.source)}"),
        "manifest": (str(saved.manifest), "figures, and what was compared"),
        "weights": (str(saved.weights), "its weights (a plain state_dict)"),
        "weights_manifest": (str(saved.stored.manifest_path), _MADE_FROM),
    }


def described_written(result: WrittenSource, saved: Saved) -> dict[str, Any]:
    """As `described`, of a network that was written as it is."""
    facts = source_manifest(result.report, {}, saved.verification)
    facts["files"] = {kind: path for kind, (path, _) in written_files(result, saved).items()}
    return facts


def show_written(result: WrittenSource, saved: Saved) -> None:
    """As `show_result`, of a network that was written as it is."""
    show_files(written_files(result, saved))
    now, outcome = result.report.now, saved.verification
    print(f"\n{now.parameters:,} parameters, {now.macs:,} MACs")
    if outcome is not None:
        print(
            f"verified: differs from the network in memory by {outcome.error:.1e} "
            f"(relative; tolerance {outcome.tolerance:.0e}){_also(outcome)}"
        )


def show_levels(rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """The metrics of an iterative experiment, a line a level."""
    columns = ("gone", "parameters", "MACs", "pruned", "recalibrated", "retrained")
    numbers = [Column(title, "number") for title in columns]
    table = Sheet((Column("level"), *numbers, Column("left", "bar")))

    def percent(value: float | None) -> str:
        return "" if value is None else f"{value:.1f} %"

    for row in rows:
        table.add_row(
            "before" if row["level"] < 0 else str(row["level"]),
            percent(row["removed_pct"]),
            f"{row['parameters']:,}",
            f"{row['macs']:,}",
            percent(row.get("accuracy_pruned")),
            percent(row.get("accuracy_recalibrated")),
            percent(row["accuracy"]),
            Bar(100 - (row["removed_pct"] or 0), 100),
        )
    show(table)


def described_store(store: ModelStore) -> dict[str, Any]:
    """What a model store holds, as plain values."""
    versions = store.versions()
    return {
        "store": str(store.folder),
        "versions": [
            {
                "name": version.name,
                "stage": version.stage,
                "version": version.version,
                "files": {suffix: str(path) for suffix, path in version.paths.items()},
                "manifest": str(version.manifest_path),
                "bytes": version.sizes,
                "made_from": [_called(parent) for parent in parents_of(version, versions)],
                "metrics": dict(version.metrics),
            }
            for version in versions
        ],
    }


def show_store(store: ModelStore) -> None:
    """What a model store holds: a line a version, and the tree of descent."""
    versions = store.versions()
    if not versions:
        return print(f"{store.folder}: no versions")
    table = Sheet(
        (
            Column("name"),
            Column("stage", colours=_STAGES),
            Column("version"),
            Column("size", "number"),
            Column("", "bar"),
            Column("parameters", "number"),
            Column("accuracy", "number"),
            Column("files"),
            # The tree below tells it as well.
            Column("from", optional=True),
        )
    )
    sizes = [sum(version.sizes.values()) for version in versions]
    for version, size in zip(versions, sizes, strict=True):
        parameters, accuracy = (version.metrics.get(n) for n in ("parameters", "accuracy"))
        table.add_row(
            version.name,
            version.stage,
            version.version,
            f"{size / 1000:,.0f} kB",
            Bar(size, size, max(sizes)),
            f"{parameters:,}" if isinstance(parameters, int) else "",
            f"{accuracy:.1f} %" if isinstance(accuracy, int | float) else "",
            " ".join(version.paths),
            ", ".join(_called(parent) for parent in parents_of(version, versions)),
        )
    show(table)
    print()
    for tree in descents(versions):
        show(_branch(tree))
    return None


def _branch(tree: Descent) -> Branch:
    colour = _STAGES.get(tree.of.stage, "") if isinstance(tree.of, StoredVersion) else "dim"
    return Branch(_called(tree.of), colour, tuple(_branch(child) for child in tree.children))


def _called(of: StoredVersion | Parent | str) -> str:
    """A version, or what one was made from, in a line."""
    if isinstance(of, StoredVersion):
        return of.stem
    return printable(f"{of.file} ({of.sha256[:12]})" if isinstance(of, Parent) else of)


def show_versions(versions: Sequence[StoredVersion]) -> None:
    """All that the manifests of these versions say, a line a fact."""
    for number, version in enumerate(versions):
        if number:
            print()
        print(version.stem)
        table = Sheet((Column(""), Column("", "words")), titled=False)
        for suffix, path in version.paths.items():
            size, digest = version.sizes[suffix], version.digests[suffix]
            table.add_row(f"  {suffix}", f"{path}  {size:,} bytes  sha256 {digest[:12]}")
        table.add_row("  manifest", str(version.manifest_path))
        for parent in version.parents:
            table.add_row("  from", _called(parent))
        for part in ("model", "made_with", "training", "pruning", "quantization", "metrics"):
            for name, value in _facts(part, version.manifest.get(part)):
                table.add_row(f"  {printable(name)}", value)
        show(table)


def _facts(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """The values in nested objects by their dotted names; what is not known is left out."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _facts(f"{name}.{key}", item)
    elif value is not None:
        yield name, printable(value) if isinstance(value, str) else json.dumps(value)


def show_findings(findings: Sequence[Finding], store: ModelStore) -> None:
    """What is wrong with the files of a store, a line a file."""
    for found in findings:
        print(printable(f"{found.path}: {found.kind}: {found.message}"))
    count = len(store.versions())
    whole = f"{count} version{'' if count == 1 else 's'}"
    files = f"{len(findings)} file{'' if len(findings) == 1 else 's'}"
    print(f"{store.folder}: {whole}, {f'{files} damaged or orphaned' if findings else 'all sound'}")


def show_groups(graph: ChannelGraph) -> None:
    """Which layers lose channels together, a line a group."""
    found = graph.groups()
    shown = [group for group in found if not group.is_trivial]
    table = Sheet(
        (
            Column("group"),
            Column("units", "number"),
            Column("may go", "bar"),
            Column("stay", "number"),
            Column("layers", "words"),
            Column("because", "words"),
        )
    )
    largest = max((group.units for group in shown), default=0)
    for group in shown:
        sides = {axis.layer: None for axis in group.axes if axis.role != "in"}
        readers = dict.fromkeys(
            f"{axis.layer} (inputs)" for axis in group.axes if axis.role == "in"
        )
        counted = [f"renormalised by {place}" for place in group.renormalised[:1]]
        table.add_row(
            str(group.number),
            f"{group.units:,}",
            Bar(group.units - group.frozen, group.units, largest),
            f"{group.frozen:,}" if group.frozen else "",
            printable(", ".join([*sides, *readers])),
            printable("; ".join([*group.reasons[:1], *counted])),
        )
    show(table)
    if len(shown) < len(found):
        print(f"\n{len(found) - len(shown)} groups of weights with a single channel are not shown")


def offer() -> dict[str, Any]:
    """What the options of the command line may be."""
    families: dict[str, list[int]] = {}
    for entry in MODELS.values():
        depths = families.setdefault(entry["family"], [])
        if entry["depth"] is not None:
            depths.append(entry["depth"])
    return {
        "arch": {family: sorted(depths) for family, depths in families.items()},
        "libraries": dict(OFFERED),
        "dataset": {
            name: {
                "input_shape": list(entry["shape"]),
                "num_classes": entry["num_classes"],
                "bundled": entry["path"] is None,
            }
            for name, entry in DATASETS.items()
        },
        "measure": {
            name: {
                "about": about(measure),
                "arguments": {n: _plain(value) for n, value in arguments_of(measure).items()},
                "data": bool(needs(measure) & CALIBRATED),
            }
            for name, measure in SCORING_MEASURES.items()
        },
        "method": {name: {"about": about(method)} for name, method in PRUNING_METHODS.items()},
        "target": list(TARGETS),
    }


def _plain(value: Any) -> Any:
    """The value, or where JSON cannot hold it (a tensor, infinity), what Python shows of it."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return " ".join(repr(value).split())
    return value


def show_offer() -> None:
    """What the options of the command line may be, a line each."""
    offered = offer()
    table = Sheet((Column("option"), Column("value"), Column("", "words")))
    for family, depths in offered["arch"].items():
        sizes = [e["input_shape"] for e in MODELS.values() if e["family"] == family]
        shapes = " or ".join("x".join(map(str, size)) for size in dict.fromkeys(sizes))
        about = f"--depth {', '.join(map(str, depths))}" if depths else f"for {shapes}"
        if takes_any_image(family):
            about += ", or images of any size"
        table.add_row("--arch", family, about)
    for library, about in offered["libraries"].items():
        table.add_row("--arch", f"{library}:NAME", about)
    table.add_row("--arch", "FILE.py:CLASS", "your own network; --arch-args JSON, --input-shape")
    for name, entry in offered["dataset"].items():
        shape = "x".join(map(str, entry["input_shape"]))
        where = "bundled" if entry["bundled"] else "--data-dir or --download"
        table.add_row("--dataset", name, f"{shape}, {entry['num_classes']} classes, {where}")
    for name, of_measure in offered["measure"].items():
        arguments = ", ".join(f"{key}={value}" for key, value in of_measure["arguments"].items())
        said = f" ({arguments})" if arguments else ""
        data = "; needs --dataset" if of_measure["data"] else ""
        table.add_row("--measure", name, f"{of_measure['about']}{said}{data}")
    for name, of_method in offered["method"].items():
        table.add_row("--method", name, of_method["about"])
    for name, what in TARGETS.items():
        table.add_row("--target", name, f"percent of the {what}")
    show(table)


def about(thing: object) -> str:
    """The first sentence of the docstring of a function, or of an object's class, in lower case."""
    text = inspect.getdoc(thing if inspect.isroutine(thing) else type(thing)) or ""
    sentence = re.split(r"[.:](?: |$)| \(", " ".join(text.split("\n\n")[0].split()))[0].strip()
    return sentence[:1].lower() + sentence[1:]


def _imports(source: str) -> str:
    """`imports torch only`, of the packages that are not Python's own."""
    names: dict[str, None] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= dict.fromkeys(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names[node.module.partition(".")[0]] = None
    foreign = sorted(name for name in names if name not in sys.stdlib_module_names)
    return f"imports {' and '.join(foreign)} only"
