"""`vcm evaluate devices=2`: processes share the images, and everything is as one process has it."""

from __future__ import annotations

import time

import pytest
import torch

import programs
from vcm.cli.main import main
from vcm.files import temporary_path

ARGUMENTS = ("codec=[jpeg]", "codecs.jpeg.qualities=[10,50]", "examples=2", "workers=1", "device=cpu")


@pytest.fixture
def forked(forking, monkeypatch):
    """Processes are forked, not started anew as they are for users: that takes seconds, and nothing else."""
    monkeypatch.setattr("vcm.evaluation.sharing.get_context", lambda method: forking)


@pytest.fixture
def folder(asset_path, tmp_path, monkeypatch):
    for name, file in (("yolov3-tiny", "yolov3-tiny.cfg"), ("coco-sample", "images")):
        asset_path(name, file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments):
    return ["evaluate", *ARGUMENTS, *arguments]


def content(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(word in path.name for word in ("timings", "provenance", ".lock"))
    }


def test_two_processes_leave_what_one_leaves_even_after_a_kill(folder, forked):
    limit = "data.test.limit=12"
    assert main(command(limit, "run_dir=one")) == 0
    process = programs.Program(["-m", "vcm", *command(limit, "run_dir=two", "devices=2")])
    deadline = time.monotonic() + 200
    while process.poll() is None and time.monotonic() < deadline:
        started = list((folder / "two/shares").glob("*-of-2/jpeg-10*[0-9a-f].jsonl"))
        if any(len(path.read_text().splitlines()) > 4 for path in started):
            break
        time.sleep(0.01)
    process.kill_group()
    process.wait()
    assert not (folder / "two/results.json").exists()
    temporary_path(folder / "two/records/a").touch()  # as a writer leaves it that is killed
    assert main(command(limit, "run_dir=two", "devices=2")) == 0
    one, two = content(folder / "one"), content(folder / "two")
    assert {name for name in one if "records" not in name} == {name for name in two if "records" not in name}
    assert all(one[name] == two[name] for name in one if "records" not in name)
    # What the killed run left stands first; each image stands once.
    assert {n: sorted(c.splitlines()) for n, c in one.items() if n.startswith("records")} == {
        n: sorted(c.splitlines()) for n, c in two.items() if n.startswith("records")
    }
    assert not (folder / "two/shares").exists()


def test_without_a_kill_every_byte_is_the_same(folder, forked):
    for devices in ("1", "2"):
        assert main(command("data.test.limit=5", f"run_dir={devices}", f"devices={devices}")) == 0
    assert content(folder / "1") == content(folder / "2")


def test_an_image_that_fails_in_a_process_is_recorded_once(folder, forked, write_image, capsys):
    for number in range(4):
        write_image(folder / "photos" / f"{number}.png", 40, 48, seed=number)
    (folder / "photos/2.png").write_bytes(b"no image")
    for devices in ("1", "2"):
        arguments = ("data=images", "data.test.root=photos", f"run_dir={devices}", f"devices={devices}")
        assert main(command(*arguments)) == 1
        assert "2.png" in capsys.readouterr().err
    assert content(folder / "1") == content(folder / "2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["devices=0"], "devices must be a whole number of at least 1; got 0"),
        (["devices=2", "task.weights=nowhere.weights"], "nowhere.weights"),
    ],
)
def test_mistakes_are_told_before_a_process_starts(folder, capsys, arguments, message):
    assert main(command("data.test.limit=2", *arguments)) == 2
    assert message in capsys.readouterr().err


@pytest.mark.gpu
def test_more_processes_than_gpus_are_refused(folder, capsys):
    count = torch.cuda.device_count() + 1
    assert main(["evaluate", *ARGUMENTS[:3], "device=cuda", f"devices={count}"]) == 2
    assert "devices must be at most" in capsys.readouterr().err
