"""A training loop to use, to inherit from, or to replace.

    trainer = Trainer(datasets="Digits", models_path="models/trained")
    trainer.load_dataloaders(batch_size=64)
    net = trainer.train(net, {"learning_rate": 0.03}, "resnet20", epochs=10)
    accuracy, net = trainer.evaluate(net)

With `pruning=True`, channels go while the network is trained (`threshold.py`); with `old_net`, it
starts from the weights of a network of another width (`morphism.py`). `train` prepares, and
`train_loop` does the epochs: a subclass that overrides it replaces nothing else. `python app.py
iterate --trainer FILE.py:CLASS` retrains with a class of one's own (`trainer_file.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader

from pruners.datasets import DataSplits, Labelled, check_labels
from pruners.errors import DivergedError, PrunerError, did_you_mean
from pruners.evaluation import accuracy
from pruners.loaders import Collate, datasets_of, drawn, first_images, loaders_of
from pruners.metrics import modes_restored
from pruners.morphism import Copied, copy_weights
from pruners.optimizer_state import follow
from pruners.progress import note
from pruners.pt2e import quantized
from pruners.recipe import Recipe
from pruners.store import check_writable, chosen_by, commit, load_checkpoint, save_bytes
from pruners.threshold import FIRST, Thinned, check_threshold, prune_net, rising
from pruners.trainer_file import load_trainer
from pruners.written import checked_name

__all__ = ["Parameters", "Trainer", "copy_weights", "load_trainer", "prune_net"]

CALIBRATION_IMAGES = 2000
"""At most so many training images show an int8 network the ranges of its activations."""


@dataclass(frozen=True, slots=True)
class Parameters:
    """The numbers of a training.

    Raises:
        PrunerError: one is out of range.
    """

    learning_rate: float = Recipe.lr
    learning_step: int = 10
    """Epochs after which the learning rate is multiplied by `learning_gamma`, again and again."""
    learning_gamma: float = 0.1
    prune_threshold: float = 0.5
    """Where the threshold ends that rises from 0.01, with `pruning=True`; see `prune_net`."""

    def __post_init__(self) -> None:
        rate, step, gamma = self.learning_rate, self.learning_step, self.learning_gamma
        if not _is_number(rate) or not 0 < rate < math.inf:
            raise PrunerError(f"learning_rate {rate}: expected a number above 0")
        if not isinstance(step, int) or isinstance(step, bool) or step < 1:
            raise PrunerError(f"learning_step {step}: expected a whole number of epochs, 1 or more")
        if not _is_number(gamma) or not 0 < gamma <= 1:
            raise PrunerError(f"learning_gamma {gamma}: expected a factor above 0, at most 1")
        check_threshold("prune_threshold", self.prune_threshold, FIRST)

    @staticmethod
    def of(parameters: Mapping[str, Any]) -> Parameters:
        """Those of a mapping, defaults for the rest; PrunerError for one that does not exist."""
        known = [field.name for field in fields(Parameters)]
        for name in parameters:
            if name not in known:
                raise PrunerError(
                    f"parameters: {name}: unknown{did_you_mean(str(name), known)}; expected "
                    f"{', '.join(known)}"
                )
        return Parameters(**parameters)


class Trainer:
    """Trains networks on one dataset, and tests them.

    Args:
        pruning: remove channels while training.
        ddtype: what networks are computed in.
        datasets: a `DataSplits`, the name of a registered dataset, or a dict of torch Datasets
            with the keys train, val and test: pairs of an image, float (channels, height, width),
            and a label, int64 ().
        models_path: the folder of `NAME.pth`.
        cuda: the device; the CPU, with a note on stderr, where there is no GPU.

    Attributes:
        pruning: whether channels go.
        dtype: as `ddtype`.
        datasets: by split: train, val, test.
        datasizes: their lengths, by split.
        dataloader: by split, from `load_dataloaders` on; training images are shuffled.
        devicy: the device.
        models_path: the folder.
        criterion: (logits, labels) -> the mean loss, a scalar; another may be put in its place.
        seed: of the order of images, of their augmentation, and of dropout.

    Raises:
        PrunerError: the datasets, the dtype or the device are none.
    """

    seed = 0

    def __init__(
        self,
        pruning: bool = False,
        ddtype: torch.dtype = torch.float32,
        datasets: DataSplits | str | Mapping[str, Labelled] = "Digits",
        models_path: str | Path = "models/trained",
        cuda: str | torch.device = "cuda:0",
    ) -> None:
        if not isinstance(ddtype, torch.dtype) or not ddtype.is_floating_point:
            raise PrunerError(f"ddtype {ddtype}: expected a torch.dtype such as torch.float32")
        self.pruning = pruning
        self.dtype = ddtype
        self.datasets, self._augmentation = datasets_of(datasets)
        self.datasizes: dict[str, int] = {
            split: len(dataset)  # type: ignore[arg-type]
            for split, dataset in self.datasets.items()
        }
        self.models_path = Path(models_path)
        self.devicy = device_or_cpu(cuda)
        self.dataloader: dict[str, DataLoader[Any]] = {}
        self.criterion: nn.Module = nn.CrossEntropyLoss()
        self._source: bytes | None = None
        """Of the network as it is now, from the first channels that went on."""

    def load_dataloaders(
        self, batch_size: int = Recipe.batch_size, collate_fn: Collate | None = None
    ) -> dict[str, DataLoader[Any]]:
        """Fill `dataloader`; see `pruners.loaders.loaders_of`."""
        self.dataloader = loaders_of(
            self.datasets, batch_size, collate_fn, self._augmentation, self.seed
        )
        return self.dataloader

    # --- training --------------------------------------------------------------------------------

    def train(
        self,
        net: nn.Module,
        parameters: Mapping[str, Any] | None = None,
        name: str = "net",
        epochs: int = 10,
        reload: bool = False,
        old_net: nn.Module | None = None,
    ) -> nn.Module:
        """Train, and return the network with the weights of the last epoch.

        Args:
            net: maps images to logits (N, classes). It is trained in place; with `pruning=True`
                the network that comes back is another one once channels have gone, of a generated
                class with the same keys, and its source is `models_path/NAME.py`.
            parameters: see `Parameters`.
            name: `models_path/NAME.pth` has the weights after every epoch.
            epochs: passes over the training images.
            reload: begin with the weights in `NAME.pth`.
            old_net: begin with the weights of this network of another width.

        Raises:
            DivergedError: the loss, or a weight, is not finite; `NAME.pth` is of the last good
                epoch.
            PrunerError: a parameter, the name or the number of epochs is none; the checkpoint or
                the old network do not fit; a label is out of range.
        """
        chosen = Parameters.of(parameters or {})
        self._check(net, name, epochs)
        if reload and old_net is not None:
            raise PrunerError("reload=True, old_net: expected one of them, to begin with")
        if not self.dataloader:
            self.load_dataloaders()
        with chosen_by("models_path=..."):
            check_writable(self.models_path)
        self._source = None
        net.to(self.devicy, self.dtype)
        if reload:
            self._reload(net, name)
        if old_net is not None:
            self.copy_weights(old_net, net)
        optimizer = self.optimizer_of(net, chosen)
        scheduler = StepLR(optimizer, chosen.learning_step, chosen.learning_gamma)
        mode = net.training
        devices = [self.devicy] if self.devicy.type == "cuda" else []
        # Dropout and the like draw from the global random state.
        with torch.random.fork_rng(devices=devices), modes_restored(net):
            torch.manual_seed(self.seed)
            trained: nn.Module | None = self.train_loop(
                net, optimizer, scheduler, name, epochs, chosen.prune_threshold
            )
        # A loop of one's own may train in place and return nothing.
        return net if trained is None or trained is net else trained.train(mode)

    def optimizer_of(self, net: nn.Module, parameters: Parameters) -> Optimizer:
        """Stochastic gradient descent with Nesterov momentum, as in the project's recipe."""
        return Recipe(0, lr=parameters.learning_rate).optimizer_of(
            [parameter for parameter in net.parameters() if parameter.requires_grad]
        )

    def train_loop(
        self,
        net: nn.Module,
        optimizer: Optimizer,
        scheduler: Any,
        name: str,
        epochs: int,
        threshold: float,
    ) -> nn.Module:
        """The epochs, for a subclass to replace; it may use the methods that this one uses.

        Args:
            net: on the device, in `dtype`.
            optimizer: of its parameters.
            scheduler: whose `step` is called after every epoch.
            name: for `save`.
            threshold: where the threshold for channels ends.

        Returns:
            The trained network: the given one, or a thinner one.
        """
        for epoch, below in enumerate(rising(threshold, epochs), 1):
            if self.pruning:
                net = self.thinner(net, optimizer, below, name)
            loss = self.train_epoch(net, optimizer, epoch, name)
            scheduler.step()
            self.save(net, name)
            percent = accuracy(net, self.datasets["val"])
            note(f"{name}: epoch {epoch}/{epochs}  loss {loss:.3f}  validation {percent:.1f} %")
        return net

    def train_epoch(
        self, net: nn.Module, optimizer: Optimizer, epoch: int = 1, name: str = "net"
    ) -> float:
        """One pass over the training images; the mean loss of the batches.

        Raises:
            DivergedError: the loss is not finite.
        """
        net.train()
        total = 0.0
        for number, (images, labels) in enumerate(self.dataloader["train"], 1):
            loss = self.loss(net, images.to(self.devicy, self.dtype), labels.to(self.devicy))
            value = loss.item()
            if not math.isfinite(value):
                raise self.diverged(
                    name, f"the loss is {value} in epoch {epoch}, batch {number}", optimizer
                )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += value
        self.check_finite(net, name, epoch, optimizer)
        return total / len(self.dataloader["train"])

    def loss(self, net: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """A scalar, for one batch on the device; a subclass may add terms to it."""
        logits = net(images)
        if isinstance(self.criterion, nn.CrossEntropyLoss) and labels.dim() == 1:
            check_labels("training images", labels, logits.shape[1])
        result: Tensor = self.criterion(logits, labels)
        return result

    def thinner(
        self, net: nn.Module, optimizer: Optimizer, threshold: float, name: str = "net"
    ) -> nn.Module:
        """The network without the channels below the threshold; the optimizer goes on with it.

        What the optimizer knows of the channels that stay (momentum, Adam's moments) it keeps.
        """
        thinned = self._thinned(net, threshold, name)
        if thinned.result is None:
            return net
        path = self.models_path / f"{name}.py"
        thinned.result.keep_the_original(path, "name, or another models_path")
        self._source = thinned.result.source_for(f"{name}.pth").encode()
        follow(optimizer, net, thinned.model, thinned.kept)
        gone = sum(map(len, thinned.removed.values()))
        note(f"{name}: {gone} channels below {threshold:.3g} removed")
        return thinned.model

    def save(self, net: nn.Module, name: str) -> Path:
        """Write `models_path/NAME.pth`, whole or not at all; with it, the source of a network that
        has lost channels, `NAME.py`."""
        path = self.models_path / f"{name}.pth"
        files = {path: save_bytes(net.state_dict())}
        if self._source is not None:
            files[self.models_path / f"{name}.py"] = self._source
        with chosen_by("models_path=..."):
            commit(files)
        return path

    # --- testing ---------------------------------------------------------------------------------

    def evaluate(self, net: nn.Module, quant_mode: bool = False) -> tuple[float, nn.Module]:
        """Percent of the test images that are right, and the network that was tested.

        Args:
            net: moved to the device and to `dtype`.
            quant_mode: test an int8 version, on the CPU, which is calibrated on at most 2,000
                training images; it is what comes back.

        Raises:
            PrunerError: there is no torchao, or the network cannot be exported, for `quant_mode`;
                the output is not (N, classes).
        """
        if not quant_mode:
            net.to(self.devicy, self.dtype)
            return accuracy(net, self.datasets["test"]), net
        chosen = drawn(self.datasets["train"], CALIBRATION_IMAGES, self.seed)
        batches = DataLoader(chosen, Recipe.batch_size, generator=torch.Generator())
        example = first_images(self.datasets["train"], 2)
        int8 = quantized(net, example, (batch[0] for batch in batches))
        return accuracy(int8, self.datasets["test"]), int8

    # --- widths ----------------------------------------------------------------------------------

    def prune_net(self, model: nn.Module, threshold: float) -> Thinned:
        """`pruners.threshold.prune_net`, with training images as the example input."""
        return self._thinned(model, threshold, "")

    def copy_weights(self, old_net: nn.Module, net: nn.Module) -> Copied:
        """`pruners.morphism.copy_weights`, with training images as the example input."""
        return copy_weights(old_net, net, first_images(self.datasets["train"], 2))

    def _thinned(self, model: nn.Module, threshold: float, name: str) -> Thinned:
        like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
        example = first_images(self.datasets["train"], 2).to(like.device, like.dtype)
        return prune_net(model, threshold, example, name=name)

    # --- checks ----------------------------------------------------------------------------------

    def _check(self, net: nn.Module, name: str, epochs: int) -> None:
        if not isinstance(net, nn.Module):
            raise PrunerError(f"net: a {type(net).__name__}; expected a torch.nn.Module")
        if not any(parameter.requires_grad for parameter in net.parameters()):
            raise PrunerError(
                f"{type(net).__name__}: nothing to train; expected a parameter with requires_grad"
            )
        if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
            raise PrunerError(f"epochs {epochs}: expected 0 or more")
        if not isinstance(name, str) or not name or name != Path(name).name:
            raise PrunerError(f"name {name!r}: expected a plain file name, for NAME.pth")
        if self.pruning:
            checked_name(name)

    def _reload(self, net: nn.Module, name: str) -> None:
        path = self.models_path / f"{name}.pth"
        if not path.exists():
            raise PrunerError(
                f"reload: {path}: no such file; expected what training {name!r} has saved; "
                f"reload=False starts anew"
            )
        source = path.with_suffix(".py")
        built = f"build the network from {source}, or " if source.exists() else ""
        load_checkpoint(net, path, f"{built}start anew with reload=False, or under another name")

    def check_finite(self, net: nn.Module, name: str, epoch: int, optimizer: Optimizer) -> None:
        """DivergedError where a weight is no number: the last step of an epoch shows in no loss."""
        for key, tensor in net.state_dict().items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise self.diverged(name, f"{key} is not finite after epoch {epoch}", optimizer)

    def diverged(self, name: str, what: str, optimizer: Optimizer) -> DivergedError:
        """The error, for `what` has become infinite or no number."""
        rate = optimizer.param_groups[0]["lr"]
        path = self.models_path / f"{name}.pth"
        kept = f"; {path} is of the last good epoch" if path.exists() else ""
        return DivergedError(
            f"training {name}: {what}; expected finite numbers; try a learning_rate below "
            f"{rate:g}, such as {rate / 10:g}{kept}"
        )


def device_or_cpu(cuda: str | torch.device) -> torch.device:
    """The device; the CPU, with a note on stderr, where there is no GPU.

    Raises:
        PrunerError: it is no device, or there are GPUs but not this one.
    """
    try:
        device = torch.device(cuda)
    except (RuntimeError, TypeError) as error:
        raise PrunerError(f"cuda {cuda!r}: no device; expected cuda:0 or cpu") from error
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        note(f"{device}: there is no GPU here; the CPU is used")
        return torch.device("cpu")
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise PrunerError(
            f"cuda {cuda}: there are {torch.cuda.device_count()} GPUs; expected cuda:0 to "
            f"cuda:{torch.cuda.device_count() - 1}"
        )
    return device


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
