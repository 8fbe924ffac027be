"""`python app.py models`: what the model store holds, and whether it is sound."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pruners.commands.options import AsJson, Debug, StoreDir, refuse_options
from pruners.errors import PrunerError, did_you_mean
from pruners.model_store import STAGES, ModelStore, StoredVersion
from pruners.store import chosen_by
from pruners.tables import (
    as_json,
    described_store,
    show_findings,
    show_store,
    show_versions,
)

models_app = typer.Typer(add_completion=False, rich_markup_mode=None)


@models_app.callback(invoke_without_command=True)
def models_command(
    ctx: typer.Context,
    store_dir: StoreDir = Path("models"),
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List what the model store holds, and which version was made from which."""
    if ctx.invoked_subcommand is not None:
        return refuse_options(ctx)
    store = _opened(store_dir)
    if json:
        return print(as_json(described_store(store)))
    return show_store(store)


@models_app.command("show")
def show_command(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="resnet20_50, or resnet20_50_pruned_v1.0.")
    ],
    stage: Annotated[
        str | None, typer.Option(metavar="STAGE", help=f"{', '.join(STAGES)}; else all of them.")
    ] = None,
    version: Annotated[
        str, typer.Option("--version", metavar="VERSION", help="latest, or one such as 1.0.")
    ] = "latest",
    store_dir: StoreDir = Path("models"),
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show what the manifests of a network's versions say."""
    found = _found(_opened(store_dir), name, stage, version)
    if json:
        return print(as_json({one.stem: one.manifest for one in found}))
    return show_versions(found)


@models_app.command("verify")
def verify_command(
    store_dir: StoreDir = Path("models"),
    json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Look for damaged and orphaned files; exit code 1 where there are any."""
    store = _opened(store_dir)
    findings = store.verify()
    if json:
        listed = [{"path": str(f.path), "kind": f.kind, "message": f.message} for f in findings]
        print(as_json({"store": str(store.folder), "findings": listed}))
    else:
        show_findings(findings, store)
    if findings:
        raise typer.Exit(1)


def _opened(folder: Path) -> ModelStore:
    """The store in this folder; PrunerError where there is no such folder."""
    if not folder.is_dir():
        raise PrunerError(
            f"--store-dir {folder}: no such folder; expected that of a model store, with "
            f"{'/, '.join(STAGES)}/ in it"
        )
    with chosen_by("--store-dir DIR"):
        store = ModelStore(folder)
        # A folder that cannot be read is told with the option that names it.
        store.versions()
    return store


def _found(store: ModelStore, name: str, stage: str | None, version: str) -> list[StoredVersion]:
    """The version of a stem or file name, else that of a network in every stage asked for."""
    versions = store.versions()
    for one in versions:
        files = {path.name for path in (one.manifest_path, *one.paths.values())}
        if Path(name).name in {one.stem, *files}:
            return [one]
    if stage is not None:
        return [store.find(name, stage, version)]
    stages = [s for s in STAGES if any(one.name == name and one.stage == s for one in versions)]
    if not stages:
        names = {one.name for one in versions}
        listed = f"; it has {', '.join(sorted(names)) or 'no versions'};"
        raise PrunerError(
            f"{store.folder}: has no {name}{did_you_mean(name, names) or listed} "
            f"`python app.py models` lists all"
        )
    if version == "latest":
        return [store.find(name, s, version) for s in stages]
    wanted = version.removeprefix("v")
    found = [one for one in versions if one.name == name and one.version == wanted]
    # Where no stage has it, the first says which ones it has.
    return found or [store.find(name, stages[0], version)]
