"""Every error a user can meet. Each names what was wrong, what came, and what to do about it."""

from __future__ import annotations

from vcm.deprecation import former_names


class VCMError(Exception):
    """Base of all errors that vcm raises on purpose."""


class ArgumentError(VCMError, ValueError):
    """An argument or setting is outside what it may be.

    Args:
        argument: The argument's name as the caller wrote it.
        expected: What it may be, with its range and unit.
        got: What came.
        remedy: What to do; left out where `expected` says it all.
    """

    def __init__(self, argument: str, *, expected: str, got: object, remedy: str = "") -> None:
        message = f"{argument} must be {expected}; got {got!r}."
        super().__init__(f"{message} {remedy}".rstrip())
        self.argument = argument
        self._parts = (argument, expected, repr(got), remedy)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle, so that the error reaches the process that started this one."""
        return _rebuilt, self._parts


class _Shown:
    """Stands in for a value of another process: its repr, and nothing else."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _rebuilt(argument: str, expected: str, got: str, remedy: str) -> ArgumentError:
    return ArgumentError(argument, expected=expected, got=_Shown(got), remedy=remedy)


class ImageError(VCMError):
    """An image cannot be read: missing, truncated, not an image, or of a kind that is not supported."""


class DatasetError(VCMError):
    """A data set's folder or annotations are missing, empty or contradict each other."""


class AssetError(VCMError):
    """A published asset is unknown, could not be fetched, or does not have the expected SHA-256."""


class WeightsError(VCMError):
    """A weights file does not belong to the network it was given for."""


class CodecError(VCMError):
    """An encoder or decoder failed on input that should have been fine."""


class MissingToolError(CodecError):
    """An external program or optional package that a codec needs is not installed."""


class BitstreamError(CodecError):
    """The bytes are not a stream that this decoder can decode: wrong kind, truncated, or corrupted."""


class OutputError(VCMError):
    """A file cannot be written: something is there already, or the place takes none."""


class ResumeError(VCMError):
    """A training cannot be resumed: its settings have changed, or what it left is damaged."""


class EvaluationError(VCMError):
    """An evaluation cannot go on, or cannot be picked up where it stopped."""


__getattr__ = former_names(__name__, {"PictureError": "ImageError"})
