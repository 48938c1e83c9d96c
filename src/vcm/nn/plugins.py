"""Networks of other packages, registered by entry points."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TypeVar, cast

from vcm.errors import ArgumentError
from vcm.files import printable

GROUP = "vcm.networks"
"""Group of entry points: the name is the class name of a network, the value the class."""
NetworkT = TypeVar("NetworkT")


def network_kind(name: object, own: Mapping[str, type[NetworkT]], base: type) -> type[NetworkT]:
    """Return the network class of a model file, from vcm or from an installed package.

    A model file gives the name of a class only, and contains no code.

    Args:
        name: Name of the class.
        own: vcm's classes by name; packages cannot replace them.
        base: Required base class.

    Raises:
        ArgumentError: If there is no such class, it cannot be imported, or it has another base class.
    """
    if isinstance(name, str) and name in own:
        return own[name]
    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    entry = found.get(name) if isinstance(name, str) else None
    if entry is None:
        raise ArgumentError(
            "network",
            expected=f"one of {', '.join([*own, *map(printable, found)])}",
            got=name,
            remedy=f"A package that has it registers it as an entry point of the group {GROUP}.",
        )
    try:
        kind = entry.load()
    except Exception as error:  # whatever importing another package raises
        raise ArgumentError(
            "network",
            expected=f"one that can be imported from {entry.value}",
            got=f"{type(error).__name__}: {error}",
        ) from error
    if not (isinstance(kind, type) and issubclass(kind, base)):
        raise ArgumentError(
            "network", expected=f"a {base.__name__}, as {GROUP} names {entry.value}", got=kind
        )
    return cast("type[NetworkT]", kind)
