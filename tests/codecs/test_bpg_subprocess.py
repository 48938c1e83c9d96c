"""BPGSubprocessCodec against programs that work, fail, hang, or write nonsense."""

from __future__ import annotations

import errno
import os
import re
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from vcm.codecs import BPGCodec, BPGSubprocessCodec
from vcm.errors import ArgumentError, BitstreamError, CodecError, MissingToolError

Photo = Callable[..., Tensor]

ENCODER = """
import sys
import numpy as np
from PIL import Image
from vcm.codecs import BPGCodec
if sys.argv[1:] == ["-h"]:
    print("BPG Image Encoder version 0.9.8\\nusage: ...")
    sys.exit(1)
arguments = sys.argv[1:]
source, options = arguments[-1], dict(zip(arguments[:-1:1], arguments[1:]))
lossless = "-lossless" in arguments
codec = BPGCodec(int(options["-q"]), chroma=options["-f"], lossless=lossless, preset="fast")
with open(options["-o"], "wb") as file:
    file.write(codec.encode_array(np.array(Image.open(source))))
"""
DECODER = """
import sys
from pathlib import Path
from PIL import Image
from vcm.codecs import BPGCodec
_, option, target, source = sys.argv
assert option == "-o"
Image.fromarray(BPGCodec().decode_array(Path(source).read_bytes())).save(target)
"""


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str, str], str]:
    """`program(name, script)`: path of a program: a shell script, or Python if it imports."""

    def make(name: str, script: str) -> str:
        path = tmp_path / name
        shebang = sys.executable if "import" in script else "/bin/sh"
        path.write_text(f"#!{shebang}\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


@pytest.fixture(autouse=True)
def private_tmp(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of the test's own, which must be empty at its end."""
    folder = tmp_path_factory.mktemp("private")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


@pytest.fixture
def nothing_left_behind(private_tmp: Path) -> object:
    yield
    assert list(private_tmp.iterdir()) == []


pytestmark = pytest.mark.usefixtures("nothing_left_behind")


def test_a_working_pair_gives_what_the_codec_in_process_gives(
    program: Callable[..., str], photo: Photo
) -> None:
    codec = BPGSubprocessCodec(30, bpgenc=program("bpgenc", ENCODER), bpgdec=program("bpgdec", DECODER))
    image = photo(21, 34)
    data = codec.encode(image)
    assert data == BPGCodec(30, preset="fast").encode(image)
    assert torch.equal(codec.decode(data), BPGCodec().decode(data))
    assert codec.settings()["implementation"].startswith("BPG Image Encoder version 0.9.8, bpgenc ")
    lossless = BPGSubprocessCodec(chroma="444", lossless=True, bpgenc=codec.bpgenc, bpgdec=codec.bpgdec)
    assert torch.equal(lossless.decode(lossless.encode(image)), image)


def test_programs_are_found_on_path(
    program: Callable[..., str], photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(program("bpgenc", ENCODER)).parent
    program("bpgdec", DECODER)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    assert BPGSubprocessCodec.unavailable() == ""
    image = photo(8, 9)
    codec = BPGSubprocessCodec(20)
    assert codec.decode(codec.encode(image)).shape == image.shape


@pytest.mark.parametrize("name", ["bpgenc", "bpgdec"])
def test_another_program_of_the_same_version_is_another_implementation(
    name: str, program: Callable[..., str]
) -> None:
    codec = BPGSubprocessCodec(
        bpgenc=program("bpgenc", "echo BPG 1; exit 1"), bpgdec=program("bpgdec", "exit 0")
    )
    before = codec.implementation()
    assert re.fullmatch(r"BPG 1, bpgenc [0-9a-f]{12}, bpgdec [0-9a-f]{12}", before)
    path = Path(program(name, Path(getattr(codec, name)).read_text().split("\n", 1)[1] + "# rebuilt"))
    assert codec.implementation() != before
    path.unlink()
    assert "missing" in codec.implementation()


@pytest.mark.parametrize("redirection", ["", ">&2"])
def test_endless_printing_fills_no_memory(
    redirection: str, program: Callable[..., str], photo: Photo
) -> None:
    bpgenc = program("bpgenc", f"yes {'x' * 70} {redirection}")
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match="ran longer than"):
            BPGSubprocessCodec(timeout_s=1, bpgenc=bpgenc).encode(photo(8, 8))
        assert tracemalloc.get_traced_memory()[1] < 1e6
    finally:
        tracemalloc.stop()


def test_the_last_of_much_printing_is_told(program: Callable[..., str], photo: Photo) -> None:
    """Both outputs are read side by side: neither may fill its pipe and stop the program."""
    bpgenc = program("bpgenc", "yes | head -c 300000; yes | head -c 300000 >&2; echo at last >&2; exit 1")
    with pytest.raises(CodecError, match=r"exit status 1: y\n(y\n)+at last$"):
        BPGSubprocessCodec(timeout_s=20, bpgenc=bpgenc).encode(photo(8, 8))


def test_the_arguments_are_bpgencs(program: Callable[..., str], photo: Photo, tmp_path: Path) -> None:
    record = tmp_path / "arguments"
    bpgenc = program("bpgenc", f'echo "$@" > {record}; exit 3')
    codec = BPGSubprocessCodec(17, chroma="422", level=4, encoder="jctvc", bpgenc=bpgenc)
    with pytest.raises(CodecError):
        codec.encode(photo(8, 8))
    arguments = record.read_text().split()
    assert arguments[:-2] == ["-q", "17", "-f", "422", "-m", "4", "-e", "jctvc", "-o"]
    assert [Path(path).name for path in arguments[-2:]] == ["out.bpg", "in.png"]


def test_missing_programs_say_how_to_get_them(photo: Photo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "bpgenc, bpgdec: not found" in BPGSubprocessCodec.unavailable()
    data = BPGCodec(preset="fast").encode(photo(8, 8))
    for call in (lambda: BPGSubprocessCodec().encode(photo(8, 8)), lambda: BPGSubprocessCodec().decode(data)):
        with pytest.raises(MissingToolError, match=r"Build libbpg .* vcm.codecs.BPGCodec"):
            call()
    with pytest.raises(MissingToolError, match="/nowhere/bpgenc: not found"):
        BPGSubprocessCodec(bpgenc="/nowhere/bpgenc").encode(photo(8, 8))
    assert "missing" in BPGSubprocessCodec().implementation()


def test_a_program_that_hangs_is_killed_with_its_children(
    program: Callable[..., str], photo: Photo, tmp_path: Path
) -> None:
    pids = tmp_path / "pids"
    bpgenc = program("bpgenc", f"sleep 61 & echo $! > {pids}; echo $$ >> {pids}; sleep 62")
    start = time.perf_counter()
    with pytest.raises(CodecError, match=r"ran longer than timeout_s=0\.5 s and was killed"):
        BPGSubprocessCodec(timeout_s=0.5, bpgenc=bpgenc).encode(photo(8, 8))
    assert time.perf_counter() - start < 5
    deadline = time.perf_counter() + 5
    alive = [int(pid) for pid in pids.read_text().split()]
    assert len(alive) == 2
    while alive and time.perf_counter() < deadline:
        alive = [pid for pid in alive if is_running(pid)]
        time.sleep(0.02)
    assert not alive


def test_a_child_in_another_session_does_not_hold_up_the_timeout(
    program: Callable[..., str], photo: Photo, tmp_path: Path
) -> None:
    """It keeps the pipes open, beyond the reach of what kills the program and its session."""
    child = tmp_path / "child.py"
    child.write_text("import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(8)\n")
    for ending in ("sleep 60", "exit 0"):
        bpgenc = program("bpgenc", f"{sys.executable} {child}; {ending}")
        start = time.perf_counter()
        with pytest.raises(CodecError, match="ran longer than"):
            BPGSubprocessCodec(timeout_s=1, bpgenc=bpgenc).encode(photo(8, 8))
        assert time.perf_counter() - start < 5


def is_running(pid: int) -> bool:
    """Whether a process does anything any more (an uncollected one does not)."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'cannot open file' >&2; exit 1", "failed with exit status 1: cannot open file"),
        ("exit 7", r"failed with exit status 7: \(nothing on standard error\)"),
        ("kill -SEGV $$", "failed with exit status -11"),
        ("exit 0", "wrote no output"),
        ('while [ "$1" != -o ]; do shift; done; : > "$2"', "wrote no output"),
        ('while [ "$1" != -o ]; do shift; done; echo nonsense > "$2"', "did not write a BPG file"),
    ],
)
def test_an_encoder_that_fails_is_told(
    script: str, message: str, program: Callable[..., str], photo: Photo
) -> None:
    with pytest.raises(CodecError, match=message):
        BPGSubprocessCodec(bpgenc=program("bpgenc", script)).encode(photo(8, 8))


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        ("echo 'corrupted' >&2; exit 1", BitstreamError, "exit status 1: corrupted"),
        ("exit 0", CodecError, "wrote no output"),
        ('echo nonsense > "$2"', CodecError, "did not write a PNG file"),
        ('cp "{small}" "$2"', CodecError, r"another size: \(2, 2\)"),
    ],
)
def test_a_decoder_that_fails_is_told(
    script: str,
    kind: type[CodecError],
    message: str,
    program: Callable[..., str],
    photo: Photo,
    tmp_path: Path,
) -> None:
    small = tmp_path / "small.png"
    Image.new("RGB", (2, 2)).save(small)
    data = BPGCodec(preset="fast").encode(photo(8, 8))
    with pytest.raises(kind, match=message):
        BPGSubprocessCodec(bpgdec=program("bpgdec", script.format(small=small))).decode(data)


def test_an_encoder_that_changes_the_size_is_told(
    program: Callable[..., str], photo: Photo, tmp_path: Path
) -> None:
    other = tmp_path / "other.bpg"
    other.write_bytes(BPGCodec(preset="fast").encode(photo(8, 9)))
    script = f'while [ "$1" != -o ]; do shift; done; cp {other} "$2"'
    with pytest.raises(CodecError, match="another size: 8x9"):
        BPGSubprocessCodec(bpgenc=program("bpgenc", script)).encode(photo(8, 8))


def test_what_is_no_bpg_is_refused_before_a_program_runs(photo: Photo) -> None:
    data = BPGCodec(preset="fast").encode(photo(8, 8))
    for stream in (b"nonsense", data[:-1]):
        with pytest.raises(BitstreamError):
            BPGSubprocessCodec(bpgdec="/nowhere").decode(stream)


def test_a_full_disk_is_told(
    program: Callable[..., str], photo: Photo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    codec = BPGSubprocessCodec(bpgenc=program("bpgenc", "exit 0"), bpgdec=program("bpgdec", "exit 0"))
    data = BPGCodec(preset="fast").encode(photo(8, 8))
    monkeypatch.setattr(Image.Image, "save", full)
    monkeypatch.setattr(Path, "write_bytes", full)
    for call in (lambda: codec.encode(photo(8, 8)), lambda: codec.decode(data)):
        with pytest.raises(CodecError, match=r"No space left on device.* set TMPDIR"):
            call()


def test_a_program_that_is_no_program_is_told(photo: Photo, tmp_path: Path) -> None:
    path = tmp_path / "bpgenc"
    path.write_bytes(b"\x7fELF no program")
    path.chmod(0o755)
    with pytest.raises(CodecError, match="cannot be started"):
        BPGSubprocessCodec(bpgenc=str(path)).encode(photo(8, 8))


@pytest.mark.parametrize(
    ("arguments", "argument"),
    [
        ({"quality": 52}, "quality"),
        ({"level": 0}, "level"),
        ({"encoder": "x264"}, "encoder"),
        ({"chroma": "420", "lossless": True}, "chroma"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"timeout_s": "60"}, "timeout_s"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments: dict[str, object], argument: str) -> None:
    with pytest.raises(ArgumentError, match=f"^{argument} must be"):
        BPGSubprocessCodec(**arguments)
