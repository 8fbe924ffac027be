"""Imports model classes from files and from text."""

from __future__ import annotations

import hashlib
import importlib.util
import linecache
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TypeGuard

import torch
from torch import nn

from pruners.errors import PrunerError, did_you_mean


def import_source(name: str, source: str, path: Path | None = None) -> ModuleType:
    """A module made of source text; tracebacks and `inspect.getsource` find its lines.

    Args:
        path: of the file that holds this text, where there is one; else the module has no file.
    """
    digest = hashlib.sha256(f"{'' if path is None else path.resolve()}{source}".encode())
    unique = f"_generated_{name}_{digest.hexdigest()[:12]}"
    if unique in sys.modules:
        return sys.modules[unique]
    filename = f"<generated {name} {unique[-12:]}>" if path is None else str(path.resolve())
    module = ModuleType(unique)
    module.__file__ = filename
    if path is None:
        lines = source.splitlines(keepends=True)
        linecache.cache[filename] = (len(source), None, lines, filename)
    else:
        linecache.checkcache(filename)
    sys.modules[unique] = module
    try:
        exec(compile(source, filename, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[unique]
        raise
    return module


def class_from_file(path: Path, class_name: str) -> type[nn.Module]:
    """A class of a user's Python file, which is imported and so runs.

    The folder of the file (of its outermost package, where there are `__init__.py` files) is
    importable meanwhile, as it would be for a script.

    Raises:
        PrunerError: there is no such file, it raises on import, or it has no such class.
    """
    module = _module_of(path, class_name)
    cls = getattr(module, class_name, None)
    if not _is_network(cls):
        raise _nothing_like(module, path, class_name, "class", _is_network)
    return cls


def maker_from_file(path: Path, name: str) -> Callable[..., nn.Module]:
    """As `class_from_file`, a class of networks or a function that returns one."""
    module = _module_of(path, name)
    maker = getattr(module, name, None)
    if not _is_maker(maker):
        raise _nothing_like(module, path, name, "class or function", _is_maker)
    return maker


def _is_network(value: object) -> TypeGuard[type[nn.Module]]:
    return isinstance(value, type) and issubclass(value, nn.Module)


def _is_maker(value: object) -> TypeGuard[Callable[..., nn.Module]]:
    return _is_network(value) or (callable(value) and not isinstance(value, type | nn.Module))


def _nothing_like(
    module: ModuleType, path: Path, name: str, kind: str, fits: Callable[[object], bool]
) -> PrunerError:
    known = [
        n
        for n, value in vars(module).items()
        if fits(value) and getattr(value, "__module__", None) == module.__name__
    ]
    return PrunerError(
        f"--arch {path}:{name}: the file has no such torch.nn.Module {kind}"
        f"{did_you_mean(name, known)}; it has {', '.join(known) or 'none'}"
    )


def network_from_pickle(path: Path) -> nn.Module:
    """A module that was saved whole, with `torch.save(model, path)`; loading it runs its code.

    The folder of the file and the current one are importable meanwhile: the classes are looked
    for there.

    Raises:
        PrunerError: there is no such file, it cannot be loaded, or holds no module.
    """
    what = f"write {path}"
    if not path.is_file():
        raise PrunerError(f"{what}: no such file; expected what torch.save(model, FILE) wrote")
    with _importable(path.resolve().parent), _importable(Path.cwd()):
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=False)
        except Exception as error:
            raise PrunerError(
                f"{what}: loading it raised {type(error).__name__}: "
                f"{' '.join(str(error).split())[:200]}; expected a module whose classes can be "
                f"imported from here; --arch FILE.py:FUNCTION needs no pickle"
            ) from error
    if not isinstance(loaded, nn.Module):
        raise PrunerError(
            f"{what}: holds a {type(loaded).__name__}, expected a torch.nn.Module; weights alone "
            f"go with --arch FILE.py:CLASS --checkpoint {path}"
        )
    return loaded


def _module_of(path: Path, name: str) -> ModuleType:
    return module_from_file(path, f"--arch {path}:{name}", "FILE.py:CLASS")


def module_from_file(path: Path, what: str, expected: str) -> ModuleType:
    """The module of a user's file, which is imported and so runs.

    Args:
        what: names the file in messages, as the user did.
        expected: what should have been there.

    Raises:
        PrunerError: there is no such file, or it raises on import.
    """
    if not path.is_file():
        raise PrunerError(f"{what}: no such file; expected {expected}")
    root, module = path.resolve().parent, path.stem
    while (root / "__init__.py").exists():
        root, module = root.parent, f"{root.name}.{module}"
    top, _, rest = module.partition(".")
    if rest and not _is_package_at(sys.modules.get(top), root / top):
        module = f"{_package_at(root / top, what)}.{rest}"
    return _imported(path.resolve(), root, module, what, expected)


def _is_package_at(module: ModuleType | None, folder: Path) -> bool:
    """Whether the module is not loaded yet, or is the package of this folder."""
    return module is None or str(folder) in map(str, getattr(module, "__path__", ()))


def _package_at(folder: Path, what: str) -> str:
    """Import the package of a folder whose name another package has; the name that it gets.

    A user's own folder `models`, say, beside the zoo: `user_models`. Its relative imports work.
    """
    number = 1
    while True:
        name = f"user_{folder.name}" + (f"_{number}" if number > 1 else "")
        if name in sys.modules and _is_package_at(sys.modules[name], folder):
            return name
        if name not in sys.modules:
            break
        number += 1
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _importable(folder.parent):
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            sys.modules.pop(name, None)
            raise PrunerError(
                f"{what}: importing its package raised {type(error).__name__}: "
                f"{' '.join(str(error).split())}"
            ) from error
    return name


def _imported(path: Path, root: Path, name: str, what: str, expected: str) -> ModuleType:
    known = sys.modules.get(name)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    if known is not None:
        # Another module has this name: keep both apart.
        digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
        name = f"{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PrunerError(f"{what}: not a Python file; expected {expected}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with _importable(root):
        try:
            if "." in name:
                importlib.import_module(name.rpartition(".")[0])
            spec.loader.exec_module(module)
        except Exception as error:
            sys.modules.pop(name, None)
            raise PrunerError(
                f"{what}: importing the file raised {type(error).__name__}: "
                f"{' '.join(str(error).split())}"
            ) from error
    return module


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """The folder at the head of sys.path, for the time of an import."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
