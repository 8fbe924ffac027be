"""The networks of torchvision and timm, by name: how each is built, and what it takes.

Neither library's weights are asked for unless the user asks; those of a segmentation network's
backbone, which torchvision would fetch by itself, are not either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from pruners.errors import PrunerError, did_you_mean

OFFERED = {
    "torchvision": "such as resnet18, deeplabv3_resnet50, r3d_18; --weights DEFAULT",
    "timm": "such as resnet18, with timm installed; --weights DEFAULT",
}
"""What may stand before the colon of `--arch`, and a word about it."""

_FRAMES = 16
"""Of a video, where its weights name no least number: what Kinetics networks are trained on."""


@dataclass(frozen=True, slots=True)
class LibraryNetwork:
    """One network of a library, not built yet."""

    name: str
    """`resnet18`"""
    build: Callable[..., nn.Module]
    task: Literal["classification", "segmentation", "video"]
    input_shape: tuple[int, ...]
    """Of one example, as its weights expect it."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of `build`, unless the user says otherwise."""
    weights: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `build` that load weights; the user says them with --weights."""
    reserved: tuple[str, ...] = ()
    """Names of such arguments."""
    size_argument: str = ""
    """What `build` calls the height and width of its images, where it takes them."""
    channels_argument: str = ""
    """What `build` calls the channels of its images, where it takes them."""
    classes_of_weights: int | None = None
    """Outputs that the asked weights fix."""

    def shape_for(self, arguments: Mapping[str, Any]) -> tuple[int, ...]:
        """The input shape of the network that these arguments build."""
        size = arguments.get(self.size_argument)
        if isinstance(size, int):
            return (*self.input_shape[:-2], size, size)
        if isinstance(size, list) and len(size) == 2:
            return (*self.input_shape[:-2], *size)
        return self.input_shape


def is_library_network(arch: str) -> bool:
    """Whether `--arch` names a network of a library."""
    return arch.partition(":")[0] in OFFERED and ":" in arch


def library_network(arch: str, weights: str | None = None) -> LibraryNetwork:
    """The network that `torchvision:NAME` or `timm:NAME` names, with the weights of that name.

    Args:
        weights: `DEFAULT`, or what the library calls them; none are loaded by default.

    Raises:
        PrunerError: there is no such network, none that can be pruned, or no such weights; or
            timm is not installed.
    """
    library, _, name = arch.partition(":")
    return (_of_torchvision if library == "torchvision" else _of_timm)(arch, name, weights)


@contextmanager
def fetching(arch: str, weights: str | None) -> Iterator[None]:
    """Building in this block may fetch weights; where that fails, the error names the way out."""
    try:
        yield
    except OSError as error:
        # What follows the first sentence is advice that does not apply here.
        reason = " ".join(str(getattr(error, "reason", error)).split()).split(". ")[0]
        raise PrunerError(
            f"--weights {weights or 'of a part'}: those of {arch} cannot be fetched "
            f"({reason.rstrip('.')}); where there is no network, "
            f"get the file elsewhere and pass it with --checkpoint FILE"
        ) from error


def _of_torchvision(arch: str, name: str, weights: str | None) -> LibraryNetwork:
    from torchvision import models

    tasks: dict[str, Literal["classification", "segmentation", "video"]] = {}
    tasks |= dict.fromkeys(models.list_models(module=models), "classification")
    tasks |= dict.fromkeys(models.list_models(module=models.segmentation), "segmentation")
    tasks |= dict.fromkeys(models.list_models(module=models.video), "video")
    if name not in tasks:
        for module, what in (
            (models.detection, "a detection"),
            (models.quantization, "a quantized"),
            (models.optical_flow, "an optical flow"),
        ):
            if name in models.list_models(module=module):
                raise PrunerError(
                    f"--arch {arch}: {what} network, not supported; expected one for "
                    f"classification, segmentation or video"
                )
        raise PrunerError(
            f"--arch {arch}: unknown{did_you_mean(name, tasks) or ';'} "
            f"`torchvision.models.list_models()` shows all"
        )
    task = tasks[name]
    offered = models.get_model_weights(name)
    loaded: dict[str, Any] = {}
    classes: int | None = None
    if weights is not None:
        if weights not in offered.__members__:
            raise _no_weights(arch, weights, list(offered.__members__))
        loaded["weights"] = offered[weights]
        classes = len(offered[weights].meta["categories"])
    arguments: dict[str, Any] = {}
    if task == "segmentation":
        arguments["weights_backbone"] = None
    if name in ("googlenet", "inception_v3") and weights is None:
        # What they do anyway, with a warning that this may change.
        arguments["init_weights"] = True
    # The newest weights say what the network is meant for, also where none are loaded.
    newest = offered[weights or "DEFAULT"]
    says = newest.transforms.keywords
    size = says.get("crop_size", says.get("resize_size"))
    height, width = (size, size) if isinstance(size, int) else size
    frames = (max(_FRAMES, newest.meta.get("min_temporal_size", 0)),) if task == "video" else ()
    return LibraryNetwork(
        name,
        models.get_model_builder(name),
        task,
        (3, *frames, height, width),
        arguments,
        loaded,
        ("weights",),
        size_argument="image_size",
        classes_of_weights=classes,
    )


def _of_timm(arch: str, name: str, weights: str | None) -> LibraryNetwork:
    try:
        import timm
    except ImportError as error:
        raise PrunerError(
            f"--arch {arch}: timm is not installed; get it with `pip install pruners[timm]`"
        ) from error
    name, _, tag = name.partition(".")
    if not timm.is_model(name):
        raise PrunerError(
            f"--arch {arch}: unknown{did_you_mean(name, timm.list_models()) or ';'} "
            f"`timm.list_models()` shows all"
        )
    trained = [full.split(".") for full in timm.list_pretrained(f"{name}*")]
    tags = [".".join(rest) for first, *rest in trained if first == name]
    if tag and tag not in tags:
        raise PrunerError(
            f"--arch {arch}: no weights of this tag{did_you_mean(tag, tags) or ';'} "
            f"expected {' or '.join(f'timm:{name}.{t}' for t in tags if t) or f'timm:{name}'}"
        )
    loaded: dict[str, Any] = {}
    if weights is not None:
        offered = ["DEFAULT", *filter(None, tags)] if tags else []
        if weights not in offered:
            raise _no_weights(arch, weights, offered)
        tag = tag if weights == "DEFAULT" else weights
        loaded["pretrained"] = True
    full_name = f"{name}.{tag}" if tag else name

    def build(**arguments: Any) -> nn.Module:
        model: nn.Module = timm.create_model(full_name, **arguments)
        return model

    build.__name__ = name
    known = timm.get_pretrained_cfg(full_name)
    return LibraryNetwork(
        name,
        build,
        "classification",
        (3, 224, 224) if known is None else tuple(known.input_size),
        {},
        loaded,
        ("pretrained", "checkpoint_path"),
        size_argument="img_size",
        channels_argument="in_chans",
    )


def _no_weights(arch: str, weights: str, offered: list[str]) -> PrunerError:
    if not offered:
        return PrunerError(
            f"--weights {weights}: there are none of {arch}; --checkpoint FILE loads others"
        )
    return PrunerError(
        f"--weights {weights}: unknown{did_you_mean(weights, offered) or ';'} "
        f"expected {' or '.join(offered)}"
    )
