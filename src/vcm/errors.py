"""Errors of vcm. Messages say what was wrong, the value, the allowed range and the fix."""

from __future__ import annotations

from vcm.deprecation import former_names


class VCMError(Exception):
    """Base class of the errors that vcm raises."""


class ArgumentError(VCMError, ValueError):
    """An argument or setting is invalid.

    Args:
        argument: Name of the argument, as the caller wrote it.
        expected: Valid values, with range and unit.
        got: The value.
        remedy: How to fix it; empty if `expected` is enough.
    """

    def __init__(self, argument: str, *, expected: str, got: object, remedy: str = "") -> None:
        message = f"{argument} must be {expected}; got {got!r}."
        super().__init__(f"{message} {remedy}".rstrip())
        self.argument = argument
        self._parts = (argument, expected, repr(got), remedy)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle the error, so that it can be passed between processes."""
        return _rebuilt, self._parts


class _Shown:
    """Placeholder for a value from another process, with the same repr."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _rebuilt(argument: str, expected: str, got: str, remedy: str) -> ArgumentError:
    return ArgumentError(argument, expected=expected, got=_Shown(got), remedy=remedy)


class ImageError(VCMError):
    """An image cannot be read: it is missing, truncated, not an image, or of an unsupported kind."""


class DatasetError(VCMError):
    """A dataset's folder or annotations are missing, empty or inconsistent."""


class AssetError(VCMError):
    """A published asset is unknown, could not be downloaded, or does not have the expected SHA-256."""


class WeightsError(VCMError):
    """A weights file is unreadable, or does not belong to the network that it was given for."""


class CodecError(VCMError):
    """An encoder or decoder failed on valid input."""


class MissingToolError(CodecError):
    """An external program or optional package that a codec needs is not installed."""


class BitstreamError(CodecError):
    """The bytes are not a stream that this decoder can decode: wrong kind, truncated, or corrupted."""


class OutputError(VCMError):
    """A file cannot be written, for example because it exists already or the folder is not writable."""


class ResumeError(VCMError):
    """A training run cannot be resumed, because its settings changed or its files are damaged."""


class EvaluationError(VCMError):
    """An evaluation cannot run or be resumed."""


__getattr__ = former_names(__name__, {"PictureError": "ImageError"})
