"""Parser of Darknet's cfg files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vcm.errors import ArgumentError
from vcm.files import printable, read_text

MAX_LAYERS = 1024
"""Most layers of a cfg; the largest published networks have about 300."""
_MAX_CFG_BYTES = 1 << 20
_MAX_SHOWN = 60


@dataclass(frozen=True)
class Section:
    """One `[name]` block of a cfg.

    Attributes:
        name: Name between the brackets.
        line: Line number of the brackets, from 1.
        options: Values by key, without blanks.
    """

    name: str
    line: int
    options: dict[str, str] = field(default_factory=dict)

    def error(self, option: str, expected: str, got: object, remedy: str = "") -> ArgumentError:
        """Build an error that names the section and the option."""
        return ArgumentError(
            f"cfg line {self.line}, [{self.name}] {option}", expected=expected, got=got, remedy=remedy
        )

    def integer(self, option: str, default: int | None = None, low: int = 0) -> int:
        """Return an integer of at least `low`; required without a default."""
        return self.integers(option, None if default is None else (default,), low=low, count=1)[0]

    def integers(
        self,
        option: str,
        default: Sequence[int] | None = None,
        low: int | None = None,
        count: int | None = None,
    ) -> tuple[int, ...]:
        """Return comma-separated integers."""
        numbers = self.numbers(option, default, count)
        if any(n != int(n) or (low is not None and n < low) for n in numbers):
            bound = "" if low is None else f" >= {low}"
            raise self.error(option, f"whole numbers{bound}", self.options[option])
        return tuple(int(n) for n in numbers)

    def number(self, option: str, default: float | None = None) -> float:
        """Return a finite number; required without a default."""
        return self.numbers(option, None if default is None else (default,), count=1)[0]

    def numbers(
        self, option: str, default: Sequence[float] | None = None, count: int | None = None
    ) -> tuple[float, ...]:
        """Return comma-separated finite numbers."""
        text = self.options.get(option)
        if text is None:
            if default is None:
                raise self.error(option, "given", "nothing")
            return tuple(default)
        try:
            values = tuple(float(part) for part in text.rstrip(",").split(","))
        except ValueError:
            values = ()
        if not values or not all(abs(v) < float("inf") for v in values) or count not in (None, len(values)):
            raise self.error(option, "a number" if count == 1 else "numbers separated by commas", text)
        return values

    def check_known(self, known: Sequence[str]) -> None:
        """Raise ArgumentError for an option that changes the layer's result and is not supported.

        Raises:
            ArgumentError: If there is any option outside `known`.
        """
        for option in self.options:
            if option not in known:
                raise self.error(
                    "options",
                    f"among those supported: {', '.join(known)}",
                    f"{option}={self.options[option]}",
                )


def parse_cfg(text: str) -> list[Section]:
    """Split a cfg into its sections, `[net]` first.

    Blanks and comments after `#` or `;` are ignored, as in Darknet.

    Raises:
        ArgumentError: If this is not a Darknet cfg; the message gives the line.
    """
    sections: list[Section] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = "".join(raw.split("#")[0].split(";")[0].split())
        if not line:
            continue
        key, equals, value = line.partition("=")
        if line.startswith("[") and line.endswith("]"):
            if len(sections) > MAX_LAYERS:
                raise ArgumentError(
                    f"cfg line {number}",
                    expected=f"within the first {MAX_LAYERS} layers",
                    got=line[:_MAX_SHOWN],
                )
            sections.append(Section(line[1:-1].lower(), number))
        elif not sections or not equals or not key or not value:
            where = f" or key=value, as [{sections[-1].name}] has them" if sections else ", [net] before all"
            raise ArgumentError(
                f"cfg line {number}", expected=f"a [section]{where}", got=raw.strip()[:_MAX_SHOWN]
            )
        elif key in sections[-1].options:
            raise sections[-1].error(key, "given once", f"a second time in line {number}")
        else:
            sections[-1].options[key] = value
    if not sections or sections[0].name not in ("net", "network"):
        found = f"[{sections[0].name}] in line {sections[0].line}" if sections else "no section at all"
        raise ArgumentError("cfg", expected="a Darknet cfg, which starts with [net]", got=found)
    if len(sections) == 1:
        raise ArgumentError("cfg", expected="a Darknet cfg with layers after [net]", got="[net] alone")
    return sections


def read_cfg(path: str | Path) -> str:
    """Read a cfg file's text.

    Raises:
        ArgumentError: If it is missing or not text.
    """
    try:
        return read_text(path, limit=_MAX_CFG_BYTES, encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or printable(error)
        raise ArgumentError("cfg", expected="a readable Darknet cfg file", got=f"{path}: {reason}") from error
