"""Names of vcm 0.1, which still work with a deprecation warning."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


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


def former_modules(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Make a package's `__getattr__` that gives a moved module at its former place, as `_target_` uses it.

    Args:
        package: The package's `__name__`.
        modules: Present dotted names by former ones within the package.
    """

    def get(name: str) -> Any:  # noqa: ANN401  a module
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        warn_renamed(f"{package}.{name}", modules[name])
        return import_module(modules[name])

    return get


def warn_renamed(former: str, present: str, *, stacklevel: int = 2) -> None:
    """Warn that a name of vcm 0.1 was used.

    Args:
        former: The name that was used.
        present: The name to use.
        stacklevel: See `warnings.warn`, counted from the caller of this function.
    """
    frame = sys._getframe()
    for _ in range(stacklevel):
        frame = frame.f_back or frame
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("torch."):
        frame, stacklevel = frame.f_back, stacklevel + 1  # `module(x)` comes through torch.nn.Module
    warnings.warn(f"{former} is deprecated. Use {present}.", DeprecationWarning, stacklevel=stacklevel + 1)


def former_arguments(**present: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Let a function accept keyword arguments by their former names, with a warning.

    Args:
        present: Present names by former ones.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def accept(*args: P.args, **kwargs: P.kwargs) -> R:
            for former in present.keys() & kwargs.keys():
                name = present[former]
                if name in kwargs:
                    raise TypeError(f"{former} is the former name of {name}. Pass {name} alone.")
                warn_renamed(f"{former}=", f"{name}=")
                kwargs[name] = kwargs.pop(former)
            return function(*args, **kwargs)

        return accept

    return decorate


def former_attribute(former: str, present: str) -> Any:  # noqa: ANN401  a property of any type
    """Make a read-only property that gives an attribute by its former name, with a warning.

    Args:
        former: The former name.
        present: The present name.
    """

    def get(owner: object) -> Any:  # noqa: ANN401  of the attribute's type
        kind = type(owner).__name__
        warn_renamed(f"{kind}.{former}", f"{kind}.{present}")
        return getattr(owner, present)

    return property(get, doc=f"Deprecated name of `{present}`.")
