"""A generated file with its weights, as the commands take it: found, and known to belong together.

The manifest beside the file holds the digests of both. Weights that somebody trained on elsewhere
are in no manifest; they are taken where the user says so.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruners.errors import PrunerError, did_you_mean
from pruners.loading import module_from_file
from pruners.model_store import ModelFile, ModelStore, Parent, StoredVersion, code_digest
from pruners.store import is_intact, load_checkpoint, parsed_json
from pruners.version import __version__

_TOLD = ("network", "generated_from", "pruned_before", "options", "parameters", "macs")
"""Of the manifest, what goes into other files: the rest is long, or of the pruning itself."""


@dataclass(frozen=True, slots=True)
class SlimNetwork:
    """A slim network that a generated file describes."""

    name: str
    """Stem of the file: `resnet20_50`."""
    path: Path
    source: str
    """Its text."""
    factory: str
    """The function of it that builds the network: `resnet20`."""
    facts: Mapping[str, Any]
    """Its manifest."""
    weights: Path
    model: nn.Module
    """With the weights, in eval mode."""
    parents: Mapping[str, str]
    """Digests (sha256) of the file and the weights, by name."""

    @property
    def belongs_to(self) -> ModelFile:
        """What the store is to know of the file."""
        return ModelFile(self.path.name, self.factory, code_digest(self.source))

    @property
    def parent(self) -> Parent:
        """What the store is to know of the weights."""
        return Parent(self.weights.name, self.parents[self.weights.name])

    @property
    def pruning(self) -> dict[str, Any]:
        """How it was pruned, as far as its manifest says."""
        return {key: self.facts[key] for key in _TOLD if key in self.facts}

    def example_inputs(self, seed: int = 0, batch: int = 2) -> tuple[Tensor, ...]:
        """Random inputs of the shapes that the network was pruned with."""
        generator = torch.Generator().manual_seed(seed)
        floating = (p.dtype for p in self.model.parameters() if p.is_floating_point())
        dtype = next(floating, torch.float32)
        shapes = self.facts["input_shapes"]
        return tuple(torch.randn(batch, *shape, generator=generator).to(dtype) for shape in shapes)

    def told(self) -> dict[str, Any]:
        """What files made from it say of where they come from; no times, no paths."""
        return {
            "parents": dict(self.parents),
            "versions": {"pruners": __version__, "torch": torch.__version__},
            **self.pruning,
        }

    def metadata(self) -> dict[str, str]:
        """The same for an ONNX file, where all values are text."""
        return {
            key: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
            for key, value in {"name": self.name, **self.told()}.items()
        }


def model_file(
    name: str,
    out: Path = Path("generated"),
    store: ModelStore | None = None,
    checkpoint: Path | None = None,
    any_weights: bool = False,
    what: str = "quantize",
) -> SlimNetwork:
    """The file of that name, its network, and the weights that belong to it.

    Args:
        name: stem of the file.
        out: its folder.
        store: whose latest pruned version of that name is taken.
        checkpoint: these weights instead.
        any_weights: take weights that the manifest does not name, as long as they load strictly.
        what: names the command in messages.

    Raises:
        PrunerError: a file is missing, cannot be imported or loaded, was edited since, or is of
            another network.
    """
    path = out / f"{name}.py"
    if not path.is_file():
        near = [p.stem for p in out.glob("*.py")] if out.is_dir() else []
        raise PrunerError(
            f"{what} {name}: no {path}{did_you_mean(name, near) or ';'} expected the name of a "
            f"generated file without .py; --out DIR names its folder"
        )
    facts = _manifest(path, what)
    source = path.read_bytes()
    digest = hashlib.sha256(source).hexdigest()
    if facts["files"].get(path.name) != digest and not any_weights:
        raise PrunerError(
            f"{what} {name}: {path} is not the file that its manifest describes (sha256 "
            f"{digest[:12]}...); generate it again, or pass --any-weights if the edit is yours"
        )
    stored = None if checkpoint is not None else _latest(name, store or ModelStore(), what)
    weights = checkpoint if stored is None else stored.paths[".pth"]
    assert weights is not None
    if not weights.is_file():
        raise PrunerError(
            f"{what} {name}: --checkpoint {weights}: no such file"
            if stored is None
            else f"{what} {name}: {weights}: is missing; restore it from a backup"
        )
    own = hashlib.sha256(weights.read_bytes()).hexdigest()
    if stored is not None and own != stored.digests[".pth"]:
        raise PrunerError(
            f"{what} {name}: {weights}: is damaged (sha256 {own[:12]}, expected "
            f"{stored.digests['.pth'][:12]} by its manifest); restore it from a backup"
        )
    known = {file: sha for file, sha in facts["files"].items() if file != path.name}
    # The manifest beside the file names one version; those of the store name the code.
    fits = stored is not None and stored.model is not None
    fits = fits and stored.model.code_sha256 == code_digest(source.decode())  # type: ignore[union-attr]
    if own not in known.values() and not fits and not any_weights:
        named = " or ".join(f"{file} (sha256 {sha[:12]}...)" for file, sha in known.items())
        raise PrunerError(
            f"{what} {name}: {weights} (sha256 {own[:12]}...) does not belong to {path}, whose "
            f"manifest names {named or 'none'}; name that with --checkpoint FILE, or pass "
            f"--any-weights for weights that were trained elsewhere"
        )
    factory, build = _factory(path, what)
    model = build()
    load_checkpoint(model, weights)
    return SlimNetwork(
        name,
        path,
        source.decode(),
        factory,
        facts,
        weights,
        model.eval(),
        {path.name: digest, weights.name: own},
    )


def _manifest(path: Path, what: str) -> dict[str, Any]:
    beside = path.with_suffix(".json")
    try:
        facts = parsed_json(beside.read_bytes())
    except OSError:
        raise PrunerError(
            f"{what} {path.stem}: no {beside}; expected the manifest beside the generated file, "
            f"which says what belongs to it"
        ) from None
    except ValueError as error:
        raise PrunerError(f"{what} {path.stem}: {beside} is damaged ({error})") from error
    match facts:
        case {"files": {**_files}, "input_shapes": [[*_], *_]}:
            if not is_intact(facts):
                raise PrunerError(
                    f"{what} {path.stem}: {beside} was changed since it was written; generate it "
                    f"again, or restore it from a backup"
                )
            return dict(facts)
    raise PrunerError(
        f"{what} {path.stem}: {beside} is no manifest of a generated file; expected files and "
        f"input_shapes in it"
    )


def _latest(name: str, store: ModelStore, what: str) -> StoredVersion:
    """The highest version of the network's weights."""
    try:
        return store.find(name.removesuffix("_pruned"), "pruned")
    except PrunerError as error:
        raise PrunerError(
            f"{what} {name}: {error}; --checkpoint FILE names other weights"
        ) from error


def _factory(path: Path, what: str) -> tuple[str, Callable[..., nn.Module]]:
    """The function of a generated file that builds the network."""
    module = module_from_file(path, f"{what} {path.stem}", "a generated file")
    makers = [
        (name, value)
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and next(iter(inspect.signature(value).parameters), "") == "weights"
    ]
    if not makers:
        raise PrunerError(
            f"{what} {path.stem}: {path} has no function that takes weights; expected a generated "
            f"file, whose last function builds the network"
        )
    return makers[-1]
