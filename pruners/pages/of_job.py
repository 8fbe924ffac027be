"""The page and the pictures of a run of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from pruners.errors import PrunerError
from pruners.evaluation import Evaluation, evaluate_all
from pruners.job import Finished, Job, noted
from pruners.metrics import compare_latency, one_thread
from pruners.pages.charts import run_charts, trial_charts
from pruners.pages.facts import RunFacts, facts_of
from pruners.pages.pictures import chart_pictures, graph_pictures
from pruners.pages.render import run_page
from pruners.pages.trials import Trials
from pruners.progress import note, stage
from pruners.store import check_writable, chosen_by, commit


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


@dataclass(frozen=True, slots=True)
class Shown:
    """What is to be shown of a run; the fields are the options of the command line."""

    report: bool = False
    latency: bool = False
    plots: Path | None = None

    def check(self) -> None:
        """PrunerError for what would otherwise fail only after long work."""
        if self.latency and not (self.report or self.plots):
            raise PrunerError(
                "--latency: is shown on the page of the run, which was not asked for; expected "
                "--report beside it"
            )
        if self.plots is not None:
            check_plots(self.plots)


def check_plots(folder: Path) -> None:
    """PrunerError where the folder cannot be written."""
    with chosen_by("--plots DIR"):
        check_writable(folder)


def save_shown(
    finished: Finished,
    job: Job,
    shown: Shown,
    written: list[Path],
    stages: Mapping[str, Evaluation] | None = None,
) -> dict[str, tuple[str, str]]:
    """Write the page and the pictures that were asked for: path, and what it is.

    Nothing is written where the run itself has written nothing.

    Args:
        written: gets the path of the page.
        stages: figures by stage, where they are known already.
    """
    page = job.out / f"{finished.result.fileName}.html"
    if finished.saved is None:
        return {}
    if not shown.report and page.exists():
        note(f"note: {page} is of an earlier run; --report makes it anew")
    if not shown.report and shown.plots is None:
        return {}
    if stages is None:
        with stage("measuring latency" if shown.latency else "gathering figures"):
            stages = figures_by_stage(finished, shown.latency)
    facts = run_facts(finished, stages)
    files = {}
    if shown.report:
        with stage("writing the report"), noted(page, written):
            commit({page: run_page(facts)})
        files["report"] = (str(page), "the report: open it in a browser")
    if shown.plots is not None:
        with stage("drawing the charts"):
            save_run_plots(facts, shown.plots)
        files["plots"] = (str(shown.plots), "every chart as PNG and SVG")
    return files


def run_facts(finished: Finished, stages: Mapping[str, Evaluation]) -> RunFacts:
    """What the page of a run says."""
    saved = finished.tuned_saved or finished.saved
    weights = None if saved is None else saved.weights.name
    return facts_of(
        finished.result,
        stages,
        outcome=finished.outcome,
        dataset=finished.stages.dataset if finished.stages is not None else "",
        source=None if weights is None else finished.result.source_for(weights, verified=True),
        weights=weights,
    )


def save_run_plots(facts: RunFacts, folder: Path) -> None:
    """Write every chart of a run's page as PNG and SVG, with the run's name in front."""
    pictures = {**chart_pictures(run_charts(facts)), **graph_pictures(facts)}
    _save({f"{facts.stem}_{name}": content for name, content in pictures.items()}, folder)


def save_trial_plots(trials: Trials, folder: Path) -> None:
    """Write every chart of an experiment's page as PNG and SVG."""
    _save(chart_pictures(trial_charts(trials.panels)), folder)


def _save(pictures: Mapping[str, bytes], folder: Path) -> None:
    with chosen_by("--plots DIR"):
        commit({folder / name: content for name, content in pictures.items()})
