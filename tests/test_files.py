"""Only regular files of bounded size are read; outputs are new files that take their name in one move."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from vcm.files import open_regular, printable, read_bytes, read_text, replacing, write_bytes, write_text


def test_a_fifo_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(OSError, match="it is a FIFO, not a regular file"):
        open_regular(tmp_path / "fifo", limit=10)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(("path", "kind"), [("/dev/zero", "character device"), ("/tmp", "folder")])
def test_devices_and_folders_are_refused(path: str, kind: str) -> None:
    with pytest.raises(OSError, match=f"it is a {kind}, not a regular file"):
        read_bytes(path, limit=10)


def test_a_socket_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        with pytest.raises(OSError):
            read_bytes("s", limit=10)


def test_a_sparse_file_beyond_the_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(20 << 30)
    with pytest.raises(OSError, match="21,474,836,480 bytes, more than the limit of 1,024"):
        read_bytes(tmp_path / "sparse", limit=1024)


def test_a_file_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_bytes(tmp_path / "link", limit=5) == b"12345"
    with pytest.raises(OSError):
        read_bytes(tmp_path / "file", limit=4)


def test_a_name_that_no_file_can_have_is_an_os_error() -> None:
    with pytest.raises(OSError, match="null byte"):
        read_bytes("a\0b", limit=4)


def test_a_link_at_the_output_is_replaced_and_its_victim_untouched(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "out").symlink_to("victim")
    write_bytes(tmp_path / "out", b"new")
    assert (tmp_path / "victim").read_text() == "precious"
    assert (tmp_path / "out").read_bytes() == b"new"
    assert not (tmp_path / "out").is_symlink()


def test_an_error_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("before")
    with pytest.raises(RuntimeError), replacing(tmp_path / "out") as file:
        file.write(b"half")
        raise RuntimeError
    assert (tmp_path / "out").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_temporary_names_differ_each_time_and_never_stand_in_for_an_existing_file(tmp_path: Path) -> None:
    names = set()
    for _ in range(20):
        with replacing(tmp_path / "out") as file:
            names.update({path.name for path in tmp_path.iterdir()} - {"out"})
            file.write(b"x")
    assert len(names) == 20


def test_the_output_has_the_permissions_that_the_umask_gives(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "out", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o640


def test_text_round_trips_and_lone_surrogates_are_escaped(tmp_path: Path) -> None:
    write_text(tmp_path / "out", "λ \udcff")
    assert read_text(tmp_path / "out") == "λ \\udcff"


def test_printable_escapes_what_a_terminal_acts_on() -> None:
    assert printable("a\x1b[31mb\r\n\udcff é") == "a\\x1b[31mb\\r\\n\\udcff é"
    assert printable("one\ntwo\x07", keep="\n") == "one\ntwo\\x07"
    assert printable("\u202egnp.jpg") == "\\u202egnp.jpg"
