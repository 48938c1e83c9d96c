"""BPG with libbpg's programs bpgenc and bpgdec."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from vcm.codecs.base import ArrayCodec
from vcm.codecs.bpg.codec import CHROMA_FORMATS, QP_SCALE
from vcm.codecs.bpg.container import read_file
from vcm.codecs.headers import check_pixels
from vcm.codecs.program import ProgramRunner
from vcm.errors import ArgumentError, BitstreamError, CodecError, MissingToolError
from vcm.files import MAX_IMAGE_BYTES, read_bytes
from vcm.types import QualityScale
from vcm.validation import check_choice, check_whole

if TYPE_CHECKING:
    from vcm.codecs.base import Array

ENCODERS = ("x265", "jctvc")


class BPGSubprocessCodec(ArrayCodec):
    """BPG with `bpgenc` and `bpgdec`, which run on files in a private temporary folder.

    `BPGCodec` implements the same format without these programs, and is faster.

    Args:
        quality: QP, `bpgenc -q`, 0 to 51.
        chroma: Chroma subsampling, `bpgenc -f`: "420", "422" or "444".
        level: Effort, `bpgenc -m`, 1 (fast) to 9.
        encoder: Encoder, `bpgenc -e`: "x265" or "jctvc".
        lossless: Whether to code losslessly, `bpgenc -lossless -c rgb`; requires chroma "444".
        timeout_s: Time limit of each program in seconds, after which it is killed with its children.
        bpgenc: Name or path of the encoder.
        bpgdec: Name or path of the decoder.

    Raises:
        ArgumentError: If an argument is invalid.
    """

    name: ClassVar[str] = "bpgenc"
    title: ClassVar[str] = "BPG (bpgenc)"
    suffix: ClassVar[str] = ".bpg"
    quality_scale: ClassVar[QualityScale] = QP_SCALE

    def __init__(
        self,
        quality: float = QP_SCALE.default,
        *,
        chroma: str | int = "420",
        level: int = 8,
        encoder: str = "x265",
        lossless: bool = False,
        timeout_s: float = 120.0,
        bpgenc: str = "bpgenc",
        bpgdec: str = "bpgdec",
    ) -> None:
        self.quality = self.quality_scale.check(quality)
        self.chroma = check_choice("chroma", str(chroma), CHROMA_FORMATS)
        self.level = check_whole("level", level, 1, 9)
        self.encoder = check_choice("encoder", encoder, ENCODERS)
        self.lossless = check_choice("lossless", lossless, (False, True))
        if lossless and self.chroma != "444":
            raise ArgumentError(
                "chroma", expected='"444" with lossless=True', got=chroma, remedy="Pass chroma='444'."
            )
        if (
            isinstance(timeout_s, bool)
            or not isinstance(timeout_s, (int, float))
            or not 0 < timeout_s < 86400
        ):
            raise ArgumentError(
                "timeout_s", expected="a number of seconds above 0 and below 86400", got=timeout_s
            )
        self.timeout_s = float(timeout_s)
        self.bpgenc, self.bpgdec = str(bpgenc), str(bpgdec)
        self._runner = ProgramRunner(self.timeout_s)

    def encode_array(self, pixels: Array) -> bytes:
        """Encode RGB pixels (H, W, 3), uint8.

        Raises:
            MissingToolError: If bpgenc is not found.
            CodecError: If bpgenc fails, times out, or writes no valid BPG file; or if the disk is full.
        """
        from PIL import Image

        program = _find(self.bpgenc)
        with _private_folder() as folder:
            source, target = folder / "in.png", folder / "out.bpg"
            Image.fromarray(pixels).save(source, compress_level=1)
            options = ["-q", str(self.quality), "-f", self.chroma, "-m", str(self.level), "-e", self.encoder]
            if self.lossless:
                options += ["-c", "rgb", "-lossless"]
            self._runner.run([program, *options, "-o", str(target), str(source)])
            data = _read_output(program, target)
        try:
            header = read_file(data).header
        except BitstreamError as error:
            raise CodecError(f"{program} did not write a BPG file: {error}") from error
        if (header.height, header.width) != pixels.shape[:2]:
            raise CodecError(f"{program} wrote an image of another size: {header.height}x{header.width}.")
        return data

    def decode_array(self, data: bytes) -> Array:
        """Decode to RGB pixels (H, W, 3), uint8.

        Raises:
            BitstreamError: If `data` is not a BPG still image, or bpgdec rejects it.
            MissingToolError: If bpgdec is not found.
            CodecError: If bpgdec times out or writes no image of the right size; or if the disk is full.
        """
        import numpy as np
        from PIL import Image

        header = read_file(data).header
        program = _find(self.bpgdec)
        with _private_folder() as folder:
            source, target = folder / "in.bpg", folder / "out.png"
            source.write_bytes(data)
            self._runner.run([program, "-o", str(target), str(source)], failure=BitstreamError)
            picture_data = _read_output(program, target)
        try:
            with Image.open(io.BytesIO(picture_data), formats=["PNG"]) as picture:
                check_pixels(self.title, *picture.size)
                if picture.size != (header.width, header.height):
                    size = (picture.height, picture.width)
                    raise CodecError(f"{program} wrote an image of another size: {size}.")
                return np.array(picture.convert("RGB"))
        except CodecError:
            raise
        except Exception as error:
            raise CodecError(f"{program} did not write a PNG file: {error}") from error

    def interrupt(self) -> None:
        """Kill the running programs; the threads that wait for them get a CodecError."""
        self._runner.kill()

    @classmethod
    def unavailable(cls) -> str:
        """Return why this codec cannot run here; empty if it can."""
        missing = [name for name in ("bpgenc", "bpgdec") if shutil.which(name) is None]
        return _remedy(", ".join(missing)) if missing else ""

    def implementation(self) -> str:
        """Return bpgenc's version and the SHA-256 of both programs, or what is missing."""
        try:
            version = self._runner.run([_find(self.bpgenc), "-h"], accept=(0, 1)).strip().partition("\n")[0]
        except CodecError:
            return f"{self.bpgenc} (missing or failing)"
        return ", ".join(
            [version, *(f"{Path(name).name} {_hash(name)}" for name in (self.bpgenc, self.bpgdec))]
        )


def _hash(program: str) -> str:
    """Return the first 12 hexadecimal digits of a program's SHA-256."""
    path = shutil.which(program)
    if path is None:
        return "(missing)"
    try:
        return hashlib.sha256(read_bytes(path, limit=MAX_IMAGE_BYTES)).hexdigest()[:12]
    except OSError:
        return "(unreadable)"


def _find(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise MissingToolError(_remedy(program))
    return path


def _remedy(programs: str) -> str:
    return (
        f"{programs}: not found. Build libbpg 0.9.8 (https://bellard.org/bpg) and add its folder to PATH, "
        "or pass bpgenc=… and bpgdec=…. vcm.codecs.BPGCodec (`codec=bpg`) reads and writes the same "
        "format without these programs."
    )


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """Create a private temporary folder; a full disk raises a CodecError."""
    try:
        with tempfile.TemporaryDirectory(prefix="vcm-bpg-") as folder:
            yield Path(folder)
    except OSError as error:
        raise CodecError(
            f"BPG (bpgenc): cannot use the temporary folder {tempfile.gettempdir()}: {error}. "
            "Free some space there, or set TMPDIR to another folder."
        ) from error


def _read_output(program: str, path: Path) -> bytes:
    try:
        data = read_bytes(path, limit=MAX_IMAGE_BYTES)
    except FileNotFoundError:
        data = b""
    except OSError as error:
        raise CodecError(f"{program} wrote output that cannot be read: {error.strerror}.") from error
    if not data:
        raise CodecError(f"{program} ended without an error but wrote no output.")
    return data
