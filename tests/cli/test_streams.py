"""Standard output that is closed, full, or a pipe whose reader has gone; a folder that is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

VCM = f"{sys.executable} -m vcm"


def shell(command, folder, **settings):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=120, cwd=folder,
        **{"env": environment, **settings},
    )  # fmt: skip


@pytest.fixture
def streams(vcm, photos, tmp_path):
    """A folder of three streams."""
    assert vcm("compress", photos, "--for", "viewing", "-o", tmp_path / "s")[0] == 0
    return tmp_path / "s"


def test_a_reader_that_stops_reading_does_not_fail_a_command(streams, tmp_path):
    # more than a pipe holds
    files = " ".join([str(path) for path in sorted(streams.rglob("*.vcm"))] * 300)
    done = shell(f"{VCM} info {files} | head -1; exit ${{PIPESTATUS[0]}}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip().endswith(".vcm")


def test_work_goes_on_without_a_reader(photos, model, tmp_path, files_below):
    command = f"{VCM} compress {photos} --for viewing -o out --model {model}"
    done = shell(f"({command}; echo $? >&2) | true", tmp_path)
    assert done.stderr == "0\n"
    assert len(files_below(tmp_path / "out")) == 3


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error_and_take_nothing_that_is_for_a_file(streams, tmp_path, closed):
    (stream,) = streams.rglob("7.png.vcm")
    before = stream.read_bytes()
    done = shell(f"{VCM} info {stream} {closed}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert stream.read_bytes() == before
    assert (done.stdout == "") == (">&-" in closed.replace("2>&-", ""))


@pytest.mark.parametrize("command", ["info", "codecs"])
def test_a_full_standard_output_is_told(streams, tmp_path, command):
    given = next(streams.rglob("*.vcm")) if command == "info" else ""
    done = shell(f"{VCM} {command} {given} > /dev/full", tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr == f"vcm {command}: error: standard output cannot be written: No space left on device.\n"
    )


def test_a_full_standard_error_changes_nothing(streams, tmp_path):
    done = shell(f"{VCM} info {streams} nothing.vcm 2> /dev/full", tmp_path)
    assert done.returncode == 1
    assert "7.png.vcm" in done.stdout


def test_a_working_directory_that_is_gone_is_told(tmp_path):
    done = shell(f"mkdir gone && cd gone && rmdir ../gone && {VCM} info x.vcm", tmp_path)
    assert done.returncode == 2
    assert "the working directory no longer exists" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_needs_no_home(tmp_path):
    environment = {key: value for key, value in os.environ.items() if key != "HOME"}
    done = shell(f"{VCM} fetch --list", tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "yolov3-tiny" in done.stdout
    assert not Path(tmp_path, "~").exists()
