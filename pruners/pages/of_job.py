"""The page and the pictures of a run of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from pruners.evaluation import Evaluation, evaluate_all
from pruners.job import Finished
from pruners.metrics import compare_latency, one_thread
from pruners.pages.charts import run_charts, trial_charts
from pruners.pages.facts import RunFacts, facts_of
from pruners.pages.pictures import chart_pictures, graph_pictures
from pruners.pages.render import run_page
from pruners.pages.trials import Trials
from pruners.store import commit


def figures_by_stage(finished: Finished, latency: bool = False) -> dict[str, Evaluation]:
    """The figures of the network at every stage: before, pruned, recalibrated, fine-tuned.

    Args:
        latency: also that of one image, on one thread of the device that the networks are on.
    """
    stages, result = finished.stages, finished.result
    full, slim = finished.network.model, result.model
    inputs = result.pruning.example_inputs
    if stages is None:
        figures = evaluate_all([full, slim], None, inputs)
        found = dict(zip(("before", "pruned"), figures, strict=True))
    else:
        named = {
            "before": stages.before,
            "pruned": stages.pruned,
            "recalibrated": stages.recalibrated,
            "fine-tuned": stages.finetuned,
        }
        found = {name: figures for name, figures in named.items() if figures is not None}
    if not latency:
        return found
    one = tuple(x[:1] if isinstance(x, Tensor) else x for x in inputs)
    models = {"before": full, "pruned": slim}
    if "fine-tuned" in found and finished.tuned is not None:
        models["fine-tuned"] = finished.tuned
    with one_thread():
        took = dict(zip(models, compare_latency([*models.values()], one), strict=True))
    # Other statistics do not change what a network costs.
    took["recalibrated"] = took["pruned"]
    return {name: replace(stage, latency_ms=took[name]) for name, stage in found.items()}


def run_facts(finished: Finished, stages: Mapping[str, Evaluation]) -> RunFacts:
    """What the page of a run says."""
    saved = finished.tuned_saved or finished.saved
    weights = None if saved is None else saved.weights.name
    source = None
    if weights is not None:
        source = finished.result.source_for(weights, verified=True)
    return facts_of(
        finished.result,
        stages,
        outcome=finished.outcome,
        dataset=finished.stages.dataset if finished.stages is not None else "",
        source=source,
        weights=weights,
    )


def save_page(facts: RunFacts, out: Path) -> Path:
    """Write the page of a run beside its model file."""
    path = out / f"{facts.stem}.html"
    commit({path: run_page(facts)})
    return path


def save_run_plots(facts: RunFacts, folder: Path) -> tuple[Path, ...]:
    """Write every chart of a run's page as PNG and SVG."""
    charts = {**chart_pictures(run_charts(facts)), **graph_pictures(facts)}
    return _saved({f"{facts.stem}_{name}": content for name, content in charts.items()}, folder)


def save_trial_plots(trials: Trials, folder: Path) -> tuple[Path, ...]:
    """Write every chart of an experiment's page as PNG and SVG."""
    return _saved(chart_pictures(trial_charts(trials.panels)), folder)


def _saved(pictures: Mapping[str, bytes], folder: Path) -> tuple[Path, ...]:
    files = {folder / name: content for name, content in pictures.items()}
    commit(files)
    return tuple(files)
