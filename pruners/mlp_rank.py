"""`prune_mlp`: a registered multilayer perceptron pruned in one call, as MLP-Rank does it.

The interface is that of Hoffmann, "MLP-Rank: A graph theoretical approach to structured pruning of
deep neural networks based on weighted Page Rank centrality" (2024); what comes out is written as
source like every other network here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from pruners.analysis import analyse
from pruners.base import BasicPruning, Options, PruningResult
from pruners.calibration import Calibration
from pruners.datasets import Labelled
from pruners.errors import PrunerError
from pruners.evaluation import answers_of, evaluate
from pruners.measure_args import arguments_for
from pruners.methods import count_target
from pruners.registry import MLP_MODEL, dataset_named
from pruners.sampling import BATCHES, sample
from pruners.store import check_writable, commit, manifest_text
from pruners.verify import Outcome
from pruners.zoo import model_named, network_for, note_on_weights, splits_for


def prune_mlp(
    model_name: str,
    dataset_name: str,
    measure_name: str = "WeightedPageRank",
    method_name: str = "Local",
    measure_args: Mapping[str, Any] | None = None,
    amount: float = 0.3,
    top_k: Sequence[int] = (1, 5),
    device: str = "cpu",
    batch_size: int = 64,
    out_path: str | Path | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Score the neurons of a perceptron on training data, remove the lowest, test what is left.

        import models  # registers the zoo
        metrics, scores = prune_mlp("SixLayerMLP", "Digits", amount=0.5, out_path="slim")
        metrics["after"]["top1_accuracy"], scores["fc1"]

    Without a dataset's own weights (`MODEL_DATA`) the network is built for its images as they are
    stored, with random weights, and a `UserWarning` says so.

    Args:
        model_name: a key of `pruners.MLP_MODEL`.
        dataset_name: a key of `pruners.DATASETS`; what has to be downloaded lies in `data`.
        measure_name: a key of `pruners.SCORING_MEASURES`.
        method_name: a key of `pruners.PRUNING_METHODS`.
        measure_args: arguments of the measure, `{"gamma": 0.5}`, or those of several measures by
            their names, `{"ChannelNorm": {"p": 1}, "WeightedPageRank": {"gamma": 0.5}}`.
        amount: the share of neurons that goes, from 0 to below 1: of every hidden layer for Local,
            of all hidden neurons together for other methods; rounded down. The outputs of the last
            layer are classes, no neurons to remove, and two neurons of every layer stay.
        top_k: which accuracies are measured; at most the number of classes counts.
        device: where scores and accuracies are computed.
        batch_size: images in one call; scores are computed on 16 batches of training images.
        out_path: a folder for the source, its manifest, the weights and the scores; without one
            nothing is written.

    Returns:
        Metrics and scores. Metrics are plain values: under "before" and "after" the accuracies on
        the test images in percent (`top1_accuracy`), `loss` (mean cross entropy, nats),
        `parameters`, `macs`, `activation_bytes` and `bytes` (of the weights file); under "removed"
        the shares in percent and the widths before and after; how it was verified; the files.
        Scores are by layer, as the measure gave them, float64, shape (n_neurons,).

    Raises:
        PrunerError: something is unknown (or no perceptron is registered), or out of range.
        VerificationError: the pruned network is not equal to the masked original; with `out_path`
            it is verified in a fresh process, else in this one.
    """
    model_named(model_name, MLP_MODEL)
    dataset_named(dataset_name)
    ks = _checked(amount, top_k, batch_size)
    arguments = arguments_for(measure_name, measure_args)
    # What can be wrong with the names is said before the data is read.
    Options(measure=measure_name, method=method_name, measure_args=arguments).check()
    if out_path is not None:
        check_writable(out_path)
    splits = splits_for(model_name, dataset_name)
    network = network_for(model_name, splits, device=device)
    if (said := note_on_weights(network, dataset_name)) is not None:
        warnings.warn(said, UserWarning, stacklevel=2)
    examples = network.example_inputs()
    options = Options(
        measure=measure_name,
        method=method_name,
        measure_args=arguments,
        **share_of_neurons(network.model, examples, amount, method_name),
    )
    pruning = BasicPruning(
        network.model,
        examples,
        options,
        fileName=f"{model_name.lower()}_{_percent(amount)}",
        netName=model_name,
        calibration=Calibration(sample(splits, BATCHES, options.seed, batch_size)),
    )
    result = pruning.run()
    scores = {name.removesuffix(".weight"): s for name, s in result.scored.layers.items()}
    outcome = result.compared() if out_path is None else result.verified()
    before, after = (
        _figures(model, splits.test, examples, ks, batch_size)
        for model in (network.model, result.model)
    )
    metrics = {
        "model": model_name,
        "dataset": dataset_name,
        "weights": network.weights,
        "measure": measure_name,
        "measure_args": arguments,
        "method": method_name,
        "amount": amount,
        "before": before,
        "after": after,
        "removed": {
            "parameters_pct": round(result.report.parameters.removed_pct, 2),
            "macs_pct": round(result.report.macs.removed_pct, 2),
            "widths": {name: [w.before, w.after] for name, w in result.report.widths.items()},
        },
        "verification": outcome.described(),
    }
    if out_path is not None:
        metrics["files"] = _save(result, outcome, metrics, scores, Path(out_path))
    return metrics, scores


def share_of_neurons(
    model: nn.Module, example_inputs: Any, amount: float, method: str
) -> dict[str, Any]:
    """The options of `Options` that remove a share of a perceptron's hidden neurons.

    Budgets count the channels of all layers, those of the classifier with them, which stay. So
    Local gets a ratio for every layer in place of a budget (the classifier has no unit that could
    go), and other methods a budget that is so many hidden neurons of all channels.

    Args:
        amount: from 0 to below 1.
    """
    if method == "Local":
        return {"prune_pct": 0.0, "ratio": (("*", amount),), "max_ratio": 1.0}
    graph = analyse(model, example_inputs).graph
    units = graph.units()
    free = ~units.frozen
    hidden = int(sum(np.count_nonzero(free[units.of(axis)]) for axis in graph.outputs()))
    gone = int(amount * hidden + 1e-6)
    # Half a neuron less: the budget is met by exactly so many, whatever the last bit says.
    share = (gone - 0.5) / count_target(graph, units, "channels") if gone else 0.0
    return {"prune_pct": 100 * share, "target": "channels"}


def _checked(amount: float, top_k: Sequence[int], batch_size: int) -> tuple[int, ...]:
    if not isinstance(amount, int | float) or not 0 <= amount < 1:
        raise PrunerError(
            f"amount {amount}: expected a share of at least 0 and below 1, such as 0.3 for 30 "
            f"percent"
        )
    ks = tuple(top_k) if isinstance(top_k, Sequence) else ()
    if not ks or not all(isinstance(k, int) and k >= 1 for k in ks):
        raise PrunerError(f"top_k {top_k}: expected whole numbers of at least 1, such as (1, 5)")
    if batch_size < 1:
        raise PrunerError(f"batch_size {batch_size}: expected 1 or more")
    return ks


def _figures(
    model: nn.Module, images: Labelled, examples: Tensor, ks: Sequence[int], batch_size: int
) -> dict[str, Any]:
    """The evaluation's figures, with an accuracy for every k."""
    figures = evaluate(model, images, examples, top_k=max(ks), batch_size=batch_size)
    described = figures.described()
    known = {1: figures.accuracy, max(ks): figures.top_k_accuracy}
    accuracies: dict[str, Any] = {}
    for k in ks:
        percent = known.get(k)
        if percent is None:
            percent = answers_of(model, images, k, batch_size=batch_size).top_k_accuracy
        accuracies[f"top{k}_accuracy"] = round(percent, 2)
    rest = {k: v for k, v in described.items() if k not in ("accuracy", "top_k", "top_k_accuracy")}
    return accuracies | rest


def _save(
    result: PruningResult,
    outcome: Outcome,
    metrics: Mapping[str, Any],
    scores: Mapping[str, Tensor],
    out: Path,
) -> dict[str, str]:
    """Source, manifest and weights, and the scores as JSON beside them; what lies where."""
    known = {key: metrics[key] for key in ("dataset", "weights", "amount", "before", "after")}
    saved = result.save_weights(result.state_dict, out, out, outcome, {"prune_mlp": known})
    path = out / f"{result.fileName}_scores.json"
    listed = {name: values.tolist() for name, values in scores.items()}
    commit({path: manifest_text({"measure": metrics["measure"], "scores": listed}).encode()})
    return {
        "source": str(saved.source),
        "manifest": str(saved.manifest),
        "weights": str(saved.weights),
        "weights_manifest": str(saved.stored.manifest_path),
        "scores": str(path),
    }


def _percent(amount: float) -> str:
    return f"{round(100 * amount, 10):g}".replace(".", "_").replace("-", "_")
