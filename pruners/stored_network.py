"""Networks from a model store: the generated class, with the weights of a version.

model = pruners.load("resnet20_50", stage="final", version="latest")

This is what two lines of a script do without this project, with what can go wrong in them looked at
first: that the weights are those of the manifest, and the model file the one that they belong to.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import nn

from pruners.errors import PrunerError
from pruners.loading import import_source
from pruners.model_store import ModelFile, ModelStore, StoredVersion, code_digest


def load(
    name: str,
    stage: str = "final",
    version: str = "latest",
    *,
    store_dir: str | Path = "models",
    out: str | Path = "generated",
) -> nn.Module:
    """The network that a version of the model store holds, on the CPU and in eval mode.

    The generated model file is imported, and so runs; nothing in the weights does
    (`weights_only=True`).

    Args:
        name: of the network in the store: `resnet20_50`.
        stage: `pruned`, `quantized` or `final`.
        version: `latest`, or a number such as `1.0`.
        store_dir: folder of the model store.
        out: folder of the generated model file.

    Raises:
        PrunerError: there is no such version, its weights are missing or not those of its manifest,
            or the model file is missing or has other code than the one that they belong to.
    """
    stored = ModelStore(store_dir).find(name, stage, version)
    weights, model = _weights_of(stored), stored.model
    if model is None:
        raise PrunerError(
            f"{stored.manifest_path}: names no model file, so what {weights.name} belongs to is "
            f"not known; build the network yourself, and load the weights with load_state_dict"
        )
    path = Path(out) / model.file
    module = import_source(path.stem, _source(path, model, weights), path)
    factory = getattr(module, model.factory, None)
    if not callable(factory):
        raise PrunerError(
            f"{path}: has no function {model.factory}, which {stored.manifest_path} names; restore "
            f"the manifest from a backup"
        )
    # Building a network draws its first weights, which are replaced at once.
    try:
        with torch.random.fork_rng(devices=[]):
            network: nn.Module = factory(weights=str(weights))
    except Exception as error:
        raise PrunerError(
            f"{weights}: is no state_dict of {path} ({_one_line(error)}); expected weights of that "
            f"file, in float or int8; `python app.py models verify` lists what is damaged"
        ) from error
    return network.eval()


def _weights_of(stored: StoredVersion) -> Path:
    """The weights of a version, which are what its manifest says."""
    path = stored.paths.get(".pth")
    if path is None:
        raise PrunerError(
            f"{stored.manifest_path}: has no .pth, only {', '.join(stored.paths)}; expected "
            f"weights to load into the model file"
        )
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise PrunerError(
            f"{path}: cannot be read ({error.strerror or error}); restore it from a backup"
        ) from error
    if digest != stored.digests[".pth"]:
        raise PrunerError(
            f"{path}: has sha256 {digest[:12]}, expected {stored.digests['.pth'][:12]} by its "
            f"manifest; `python app.py models verify` lists what is damaged"
        )
    return path


def _source(path: Path, model: ModelFile, weights: Path) -> str:
    """The text of the model file, whose code is what the weights belong to."""
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or _one_line(error)
        raise PrunerError(
            f"{path}: cannot be read ({why}); expected the model file of {weights.name}; name its "
            f"folder with out="
        ) from error
    digest = code_digest(source)
    if digest != model.code_sha256:
        raise PrunerError(
            f"{path}: is not the model file that {weights.name} belongs to (sha256 of its code "
            f"{digest[:12]}, expected {model.code_sha256[:12]}); name the folder of that one with "
            f"out=, or choose the version= of this one"
        )
    return source


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text if len(text) <= 200 else f'{text[:200]}...'}"
