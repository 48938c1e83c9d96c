"""Names of vcm 0.1, which still work with a deprecation warning."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def former_names(module: str, names: Mapping[str, str], *, stacklevel: int = 2) -> Callable[[str], Any]:
    """Create a module's `__getattr__` that resolves former names.

    Args:
        module: The module's `__name__`.
        names: Present names by former names, all in that module.
        stacklevel: See `warnings.warn`, counted from the returned function.
    """

    def get(name: str) -> Any:  # noqa: ANN401  any attribute
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn_renamed(f"{module}.{name}", f"{module}.{names[name]}", stacklevel=stacklevel)
        return getattr(import_module(module), names[name])

    return get


def warn_renamed(former: str, present: str, *, stacklevel: int = 2) -> None:
    """Warn that a name of vcm 0.1 was used.

    Args:
        former: The name that was used.
        present: The name to use.
        stacklevel: See `warnings.warn`, counted from the caller of this function.
    """
    warnings.warn(f"{former} is deprecated. Use {present}.", DeprecationWarning, stacklevel=stacklevel + 1)
