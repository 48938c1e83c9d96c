"""Lazy imports: names of packages, and parts of CompressAI without the rest, which takes as long as torch.

`import compressai` runs the package's `__init__`, which imports models, data sets, torch_geometric and
pandas. vcm needs layers, entropy models and the entropy coder. They are imported from a package object whose
`__init__` runs when code asks for one of its other names, so that other code sees no difference.
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
    """Packages whose `__init__` runs in this thread."""

    def __init__(self) -> None:
        self.names: set[str] = set()


_running = _Running()


class _Unloaded(ModuleType):
    """A package whose `__init__` has not run yet; its submodules can be imported."""

    def __getattr__(self, name: str) -> object:
        spec: ModuleSpec = self.__dict__["__spec__"]
        if name.startswith("__") and name not in ("__all__", "__version__"):
            raise AttributeError(f"module {spec.name!r} has no attribute {name!r}")
        if find_spec(f"{spec.name}.{name}") is not None:
            return importlib.import_module(f"{spec.name}.{name}")
        if spec.name in _running.names:  # its __init__ asks for what it has not defined yet
            raise AttributeError(f"module {spec.name!r} has no attribute {name!r}")
        assert spec.loader is not None
        _running.names.add(spec.name)
        try:
            spec.loader.exec_module(self)  # in two threads at once: twice, to the same end
            self.__class__ = ModuleType  # type: ignore[assignment]  # a plain module from now on
        finally:
            _running.names.discard(spec.name)
        return getattr(self, name)


def import_compressai_lazily() -> None:
    """Put packages `compressai` and `scipy.stats` into `sys.modules` whose `__init__` runs when needed.

    A package that is there already stays as it is. CompressAI's entropy models use one function of
    scipy.stats.
    """
    package = _unloaded("compressai")
    if package is not None:
        # What entropy models ask for when they are made, as in the package's __init__.
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
    """Make a package's `__getattr__` and `__dir__`, which import names when they are first used.

    Args:
        module: The package's `__name__`.
        homes: For each name the module that defines it, or the name of the submodule that it is.
        former: Present names by those of vcm 0.1, which still work with a warning.
    """
    find_former = former_names(module, former or {}, stacklevel=3)

    def get(name: str) -> Any:  # noqa: ANN401  what a module holds
        if name not in homes:
            return find_former(name)
        home = importlib.import_module(homes[name])
        value = home if homes[name] == f"{module}.{name}" else getattr(home, name)
        sys.modules[module].__dict__[name] = value
        return value

    def names() -> list[str]:
        return sorted({*sys.modules[module].__dict__, *homes})

    return get, names
