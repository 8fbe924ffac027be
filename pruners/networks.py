"""Which network a command line means, with its weights: of the zoo, a library, or a file."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pruners.ancestry import record_of
from pruners.datasets import DataSplits
from pruners.errors import PrunerError, did_you_mean
from pruners.libraries import LibraryNetwork, fetching, is_library_network, library_network
from pruners.loading import maker_from_file, network_from_pickle
from pruners.registry import MODELS, ModelEntry
from pruners.store import load_checkpoint


@dataclass(frozen=True, slots=True)
class Request:
    """What the options say about the network, as they were typed."""

    arch: str
    """A family of the zoo, torchvision:NAME, timm:NAME, or FILE.py:CLASS; a function that returns
    a network will do, too."""
    depth: int | None = None
    arch_args: str | None = None
    """JSON object: the arguments of a user's class, or of a library's network."""
    input_shape: str | None = None
    """`3,32,32`"""
    num_classes: int | None = None
    checkpoint: Path | None = None
    seed: int = 0
    device: str = "cpu"
    weights: str | None = None
    """Of a library's network: `DEFAULT`, or as the library calls them."""


@dataclass(frozen=True, slots=True)
class Network:
    """A network that is ready to be pruned."""

    name: str
    """`ResNet20`, `resnet18` of a library, or the name of the user's class (of the network that
    its generated file came from, as the manifest beside it says)."""
    model: nn.Module
    input_shape: tuple[int, ...]
    """Of one example."""
    weights: Literal["random", "shipped", "pretrained", "checkpoint"]
    device: torch.device
    checkpoint: Path | None = None
    """The file that its weights are from, where they are from one."""

    def examples(self, seed: int = 0) -> list[Tensor]:
        """Batches that between them take every path of the forward.

        Random examples, the same for the same seed; of a network whose path depends on the data,
        what its own `example_batches(shape)` returns, of images (channels, height, width) as it is
        used here.
        """
        own = getattr(self.model, "example_batches", None)
        if own is None:
            return [self.example_inputs(seed)]
        return [self._placed(batch) for batch in own(self.input_shape)]

    def example_inputs(self, seed: int = 0, batch: int = 2) -> Tensor:
        """Random examples, the same for the same seed; two, as batch norm cannot train on one."""
        generator = torch.Generator().manual_seed(seed)
        return self._placed(torch.randn(batch, *self.input_shape, generator=generator))

    def _placed(self, examples: Tensor) -> Tensor:
        floating = (p.dtype for p in self.model.parameters() if p.is_floating_point())
        return examples.to(self.device, next(floating, torch.float32))


def find_network(
    request: Request, splits: DataSplits | None = None, shipped: bool = True
) -> Network:
    """Build the network and give it its weights.

    A network of the zoo gets its input shape and number of classes from the request, else from
    the dataset, else from the registry; without a depth, it is the member of its family that is
    made for images of about that size. One of its default shape takes the weights that ship with
    it (unless `shipped` is False, or the request names a checkpoint); one of a library takes those
    that the request names. Without any, weights are drawn with the seed.

    Raises:
        PrunerError: there is no such network, it cannot be built as asked, or its checkpoint
            cannot be read or is of another network.
    """
    device = checked_device(request.device)
    library = is_library_network(request.arch)
    if request.weights is not None and (request.checkpoint is not None or not library):
        why = "only for torchvision:NAME and timm:NAME" if not library else "not both"
        raise PrunerError(f"--weights {request.weights}: {why}; --checkpoint FILE loads weights")
    build = _from_library if library else _from_file if is_file(request.arch) else _from_zoo
    torch.manual_seed(request.seed)
    name, model, shape, path = build(request, splits)
    weights: Literal["random", "shipped", "pretrained", "checkpoint"] = "random"
    if request.weights is not None:
        weights = "pretrained"
    if request.checkpoint is not None:
        path, weights = request.checkpoint, "checkpoint"
    elif shipped and path is not None:
        weights = "shipped"
    else:
        path = None
    if path is not None:
        load_checkpoint(model, path)
    return Network(name, model.to(device), shape, weights, device, path)


def unpickled_network(path: Path, input_shape: str | None, device: str, trusted: bool) -> Network:
    """A network that was saved whole, as tools that prune in memory tell their users to.

    Raises:
        PrunerError: it is not trusted (nothing is read then), or holds no network.
    """
    if not trusted:
        raise PrunerError(
            f"write {path}: a module saved whole is a pickle, which runs code to load; refused, "
            f"nothing was executed; pass --trust-pickle if you made the file yourself, or name a "
            f"function that returns the network: --arch FILE.py:FUNCTION"
        )
    if input_shape is None:
        raise PrunerError(f"write {path}: needs --input-shape, such as 3,224,224")
    shape, place = parsed_shape(input_shape), checked_device(device)
    with _no_exit(f"write {path}", "loading it"):
        model = network_from_pickle(path)
    return Network(type(model).__name__, model.to(place), shape, "checkpoint", place, path)


def is_file(arch: str) -> bool:
    """Whether `--arch` names a file rather than a family of the zoo or a library's network."""
    return (":" in arch or arch.endswith(".py")) and not is_library_network(arch)


def takes_any_image(arch: str) -> bool:
    """Whether `--arch` names a family of the zoo that is built for the number of values of an
    image, whatever its size: then there is no need to resize any."""
    family = [entry for entry in MODELS.values() if entry["family"] == arch]
    return any("in_features" in _parameters(entry["wrapper"]) for entry in family)


def parsed_shape(text: str) -> tuple[int, ...]:
    """`3,32,32` as numbers; PrunerError for anything else."""
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise PrunerError(
            f"--input-shape {text}: expected channels, height and width, such as 3,32,32"
        )
    return shape


def checked_device(name: str) -> torch.device:
    """The device; PrunerError where there is none of that name."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise PrunerError(
            f"--device {name}: unknown; expected such as cpu, cuda, cuda:1"
        ) from error
    try:
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = (" ".join(str(error).split()) or type(error).__name__).split(". ")[0]
        raise PrunerError(
            f"--device {name}: not available ({why}); expected cpu, or cuda where there is one"
        ) from error
    return device


Found = tuple[str, nn.Module, tuple[int, ...], Path | None]
"""Name, network, input shape, and the weights that ship with it."""


def _from_zoo(request: Request, splits: DataSplits | None) -> Found:
    if request.arch_args is not None:
        raise PrunerError(
            f"--arch-args: only for FILE.py:CLASS, torchvision:NAME and timm:NAME; "
            f"--arch {request.arch} takes --depth, "
            f"--num-classes and --input-shape"
        )
    family = {n: e for n, e in MODELS.items() if e["family"] == request.arch}
    if not family:
        families = dict.fromkeys(entry["family"] for entry in MODELS.values())
        raise PrunerError(
            f"--arch {request.arch}: unknown{did_you_mean(request.arch, families) or ';'} "
            f"`python app.py --list` shows all"
        )
    given: tuple[int, ...] | None = None if splits is None else splits.input_shape
    if request.input_shape is not None:
        given = parsed_shape(request.input_shape)
    name = _member(request, family, given)
    entry = family[name]
    shape = entry["input_shape"] if given is None else given
    classes = entry["num_classes"] if splits is None else splits.num_classes
    if len(shape) != 3:
        raise PrunerError(
            f"--input-shape {request.input_shape}: {name} takes images; expected channels, "
            f"height and width, such as {','.join(map(str, entry['input_shape']))}"
        )
    if request.num_classes is not None:
        classes = request.num_classes
    model = entry["wrapper"](num_classes=classes, **input_size(entry["wrapper"], shape))
    as_shipped = shape == entry["input_shape"] and classes == entry["num_classes"]
    return name, model, shape, entry["path"] if as_shipped else None


def input_size(wrapper: Callable[..., nn.Module], shape: Sequence[int]) -> dict[str, int]:
    """What a network of the zoo is told of its input: the channels, or for Linears all values."""
    if "in_features" in _parameters(wrapper):
        return {"in_features": math.prod(shape)}
    return {"in_channels": shape[0]}


def _member(request: Request, family: Mapping[str, ModelEntry], shape: Sequence[int] | None) -> str:
    """The member of that depth; without one, the first that is made for images nearest in size."""
    depths = [str(e["depth"]) for e in family.values() if e["depth"] is not None]
    if request.depth is None:
        first = next(iter(family.values()))
        size = (first["input_shape"] if shape is None else shape)[-1]
        return min(family, key=lambda name: abs(family[name]["input_shape"][-1] - size))
    for name, entry in family.items():
        if entry["depth"] == request.depth:
            return name
    instead = f"expected one of {', '.join(depths)}" if depths else "leave --depth out"
    raise PrunerError(f"--depth {request.depth}: no {request.arch} of this depth; {instead}")


def _from_file(request: Request, splits: DataSplits | None) -> Found:
    path, colon, class_name = request.arch.rpartition(":")
    if not colon or not class_name:
        raise PrunerError(
            f"--arch {request.arch}: no class named; expected FILE.py:CLASS, such as "
            f"{path or class_name}:Net"
        )
    if request.depth is not None:
        raise PrunerError(
            f"--depth {request.depth}: only for the zoo; a class in a file takes its arguments "
            f"from --arch-args JSON"
        )
    what = f"--arch {request.arch}"
    with _no_exit(what, "importing the file"):
        cls = maker_from_file(Path(path), class_name)
    arguments = _arguments(cls, what, request.arch_args)
    if request.num_classes is not None:
        arguments = _with_classes(cls, arguments, request.num_classes)
    with _no_exit(what, "building the network"):
        model = _built(cls, what, arguments)
    record = record_of(type(model))
    if request.input_shape is not None:
        shape = parsed_shape(request.input_shape)
    elif splits is not None:
        shape = splits.input_shape
    elif record is not None and record.input_shape is not None:
        shape = record.input_shape
    else:
        raise PrunerError(
            f"--arch {request.arch}: needs --input-shape, such as 3,32,32 (or a --dataset, "
            f"whose shape it takes)"
        )
    name = record.network if record is not None and record.network else type(model).__name__
    return name, model, shape, None


def _from_library(request: Request, splits: DataSplits | None) -> Found:
    what = f"--arch {request.arch}"
    if request.depth is not None:
        raise PrunerError(
            f"--depth {request.depth}: only for the zoo; expected a name with its depth, such as "
            f"torchvision:resnet50"
        )
    network = library_network(request.arch, request.weights)
    if splits is not None and network.task != "classification":
        raise PrunerError(
            f"--dataset {splits.name}: has images of classes, {network.name} is for "
            f"{network.task}; leave it out"
        )
    arguments = _arguments(network.build, what, request.arch_args)
    for name in network.reserved:
        if name in arguments:
            raise PrunerError(
                f"--arch-args: {name} is not the network's; expected --weights NAME, or "
                f"--checkpoint FILE"
            )
    shape = _library_shape(request, splits, network, arguments)
    if network.channels_argument and shape[0] != network.input_shape[0]:
        arguments.setdefault(network.channels_argument, shape[0])
    fixed = network.classes_of_weights
    wanted = arguments.get("num_classes", request.num_classes)
    if fixed is not None and wanted is not None and wanted != fixed:
        raise PrunerError(
            f"--num-classes {wanted}: the weights {request.weights} of {network.name} have "
            f"{fixed}; leave out one of the two"
        )
    if request.num_classes is not None:
        arguments = _with_classes(network.build, arguments, request.num_classes)
    elif splits is not None and request.weights is None:
        arguments.setdefault("num_classes", splits.num_classes)
    with fetching(request.arch, request.weights):
        model = _built(
            network.build, what, {**network.arguments, **arguments, **network.weights}, OSError
        )
    return network.name, model, shape, None


def _library_shape(
    request: Request,
    splits: DataSplits | None,
    network: LibraryNetwork,
    arguments: Mapping[str, Any],
) -> tuple[int, ...]:
    expected = network.shape_for(arguments)
    if request.input_shape is None:
        return expected if splits is None else splits.input_shape
    shape = parsed_shape(request.input_shape)
    if len(shape) != len(expected):
        video = network.task == "video"
        raise PrunerError(
            f"--input-shape {request.input_shape}: {network.name} takes "
            f"{'videos' if video else 'images'}; expected channels,{' frames,' if video else ''} "
            f"height and width, such as {','.join(map(str, expected))}"
        )
    return shape


def _arguments(cls: Callable[..., nn.Module], what: str, text: str | None) -> dict[str, Any]:
    """The arguments of the constructor, checked against its signature."""
    arguments = {}
    if text is not None:
        arguments = json_object("--arch-args", text, '{"num_classes": 10}')
    parameters = _parameters(cls)
    named = {
        n: p for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for name in arguments:
            if name not in named:
                raise PrunerError(
                    f"--arch-args: {_name(cls)} takes no argument {name!r}"
                    f"{did_you_mean(name, named)}; it takes {', '.join(named) or 'none'}"
                )
    missing = [n for n, p in named.items() if p.default is p.empty and n not in arguments]
    if missing:
        example = json.dumps({**arguments, **dict.fromkeys(missing, 10)})
        raise PrunerError(
            f"{what}: its constructor needs {' and '.join(missing)}; "
            f"pass them with --arch-args, such as --arch-args '{example}'"
        )
    return arguments


def _with_classes(
    cls: Callable[..., nn.Module], arguments: dict[str, Any], num_classes: int
) -> dict[str, Any]:
    parameters = _parameters(cls)
    takes = "num_classes" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    if not takes or arguments.get("num_classes", num_classes) != num_classes:
        raise PrunerError(
            f"--num-classes {num_classes}: the constructor of {_name(cls)} "
            f"{'has no argument num_classes' if not takes else 'gets another from --arch-args'}; "
            f"say it in --arch-args only"
        )
    return {**arguments, "num_classes": num_classes}


def _parameters(cls: Callable[..., nn.Module]) -> dict[str, inspect.Parameter]:
    return dict(inspect.signature(cls).parameters)


def _name(cls: Callable[..., nn.Module]) -> str:
    return getattr(cls, "__name__", type(cls).__name__)


def json_object(option: str, text: str, example: str) -> dict[str, Any]:
    """The JSON object that an option holds; PrunerError for anything else.

    Python reads NaN, Infinity and 1e999, too, which the manifest could not hold.
    """

    def refuse(number: str) -> Any:
        raise ValueError(f"{number} is no finite number")

    def finite(number: str) -> float:
        return float(number) if math.isfinite(float(number)) else refuse(number)

    try:
        value = json.loads(text, parse_constant=refuse, parse_float=finite)
        why = f"is a {type(value).__name__}"
    except (ValueError, RecursionError) as error:
        value, why = None, f"is not JSON ({error})"
    if not isinstance(value, dict):
        raise PrunerError(f"{option} {text}: {why}; expected an object, such as '{example}'")
    return value


def _built(
    cls: Callable[..., nn.Module],
    what: str,
    arguments: dict[str, Any],
    through: type[Exception] = PrunerError,
) -> nn.Module:
    """The network; errors of the kind `through` are the caller's to explain."""
    try:
        model = cls(**arguments)
    except (PrunerError, through):
        raise
    except Exception as error:
        raise PrunerError(
            f"{what}: building the network raised {type(error).__name__}: "
            f"{' '.join(str(error).split())}; check --arch-args"
        ) from error
    if not isinstance(model, nn.Module):
        raise PrunerError(f"{what}: returned a {type(model).__name__}, expected a torch.nn.Module")
    return model


@contextmanager
def _no_exit(what: str, doing: str) -> Iterator[None]:
    """A user's file that calls sys.exit must not end this program without a word."""
    try:
        yield
    except SystemExit as error:
        raise PrunerError(
            f"{what}: {doing} called sys.exit; put that under `if __name__ == '__main__':`"
        ) from error
