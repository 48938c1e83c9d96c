"""Lazy imports of package attributes, and of CompressAI's parts without the whole package.

`import compressai` runs the package's `__init__`, which imports models, datasets, torch_geometric and pandas,
and takes as long as importing torch. vcm needs only layers, entropy models and the entropy coder. They are
imported from a package object whose `__init__` runs when another name is accessed, so that other code sees no
difference.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from threading import local
from types import ModuleType
from typing import Any

from vcm.deprecation import former_names


class _Running(local):
    """Packages whose `__init__` is running in this thread."""

    def __init__(self) -> None:
        self.names: set[str] = set()


_running = _Running()


class _Unloaded(ModuleType):
    """A package whose `__init__` has not run yet; its submodules can already be imported."""

    def __getattr__(self, name: str) -> object:
        spec: ModuleSpec = self.__dict__["__spec__"]
        if name.startswith("__") and name not in ("__all__", "__version__"):
            raise AttributeError(f"module {spec.name!r} has no attribute {name!r}")
        if find_spec(f"{spec.name}.{name}") is not None:
            return importlib.import_module(f"{spec.name}.{name}")
        if spec.name in _running.names:  # its __init__ accesses a name that it has not defined yet
            raise AttributeError(f"module {spec.name!r} has no attribute {name!r}")
        assert spec.loader is not None
        _running.names.add(spec.name)
        try:
            spec.loader.exec_module(self)  # running it twice, from two threads, is harmless
            self.__class__ = ModuleType  # type: ignore[assignment]  # from now on a plain module
        finally:
            _running.names.discard(spec.name)
        return getattr(self, name)


def import_compressai_lazily() -> None:
    """Put `compressai` and `scipy.stats` into `sys.modules` such that their `__init__` runs on demand.

    Packages that are already imported are not changed. CompressAI's entropy models use one function of
    scipy.stats.
    """
    package = _unloaded("compressai")
    if package is not None:
        # Entropy models call these functions of the package's __init__ when they are created.
        coders = ["ans"]
        package.__dict__["get_entropy_coder"] = lambda: coders[0]
        package.__dict__["available_entropy_coders"] = lambda: coders
    _unloaded("scipy.stats")


def _unloaded(name: str) -> ModuleType | None:
    spec = None if name in sys.modules else find_spec(name)
    if spec is None or spec.loader is None:
        return None
    package = module_from_spec(spec)
    package.__class__ = _Unloaded
    sys.modules[name] = package
    return package


def lazy_names(
    module: str, homes: Mapping[str, str], former: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Create a package's `__getattr__` and `__dir__`, which import names on first use.

    Args:
        module: The package's `__name__`.
        homes: Defining module of each name; for a submodule, its own full name.
        former: Present names by their names in vcm 0.1, which still work with a deprecation warning.
    """
    find_former = former_names(module, former or {}, stacklevel=3)

    def get(name: str) -> Any:  # noqa: ANN401  any attribute
        if name not in homes:
            return find_former(name)
        home = importlib.import_module(homes[name])
        value = home if homes[name] == f"{module}.{name}" else getattr(home, name)
        sys.modules[module].__dict__[name] = value
        return value

    def names() -> list[str]:
        return sorted({*sys.modules[module].__dict__, *homes})

    return get, names
