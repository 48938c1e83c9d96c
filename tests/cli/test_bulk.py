"""Many files: processes, Ray, manifests, kills, and options that cannot be."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import programs
from vcm.cli import bulk
from vcm.cli.bulk import Processes, default_workers, num_cores, run_on_ray, worth_while
from vcm.cli.main import main
from vcm.cli.manifest import Manifest
from vcm.cli.work import Item, Outcome, tried
from vcm.errors import OutputError
from vcm.nn.serialization import read_notes

COUNT = 24
pytestmark = pytest.mark.usefixtures("forking")


@pytest.fixture
def model(tmp_path, write_model):
    """A model whose detector has weights in a file, so that every process finds the same."""
    folder = tmp_path / "model"
    folder.mkdir()
    path = write_model(folder)
    notes = json.loads(read_notes(path)["tasks"])
    weights = np.random.default_rng(0).normal(0, 0.1, 5 + 5 * 3 * 8 * 8 + 85 + 85 * 5).astype(np.float32)
    head = np.array([0, 2, 0, 0, 0], np.int32)
    (folder / "detector.weights").write_bytes(head.tobytes() + weights.tobytes())
    notes["detection"]["weights"] = str(folder / "detector.weights")
    return write_model(folder, **notes)


@pytest.fixture
def many(tmp_path, write_image):
    """A folder of images, one of which is damaged."""
    folder = tmp_path / "many"
    for number in range(COUNT):
        write_image(folder / f"{number:02d}.png", 40, 48, seed=number)
    (folder / "07.png").write_bytes(b"no image")
    return folder


def rows(manifest):
    return [json.loads(line) for line in manifest.read_text().splitlines()[1:]]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Squares:
    """Work that writes the square of a file's number; a file named "die" ends its process."""

    def __call__(self, item, on_step=None):
        if item.source.name == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if item.source.name == "fail":
            raise ValueError("cannot be squared")
        time.sleep(0.1)  # so that every process gets a share
        return Outcome(item, int(item.source.name) ** 2, 1, content=os.getpid())


def items(*names):
    return [Item(Path(str(name)), Path("out")) for name in names]


def test_processes_work_on_all_and_name_what_failed():
    outcomes = list(Processes(2).run(Squares(), items(*range(20), "fail")))
    assert sorted(o.num_bytes for o in outcomes if not o.error) == sorted(n**2 for n in range(20))
    (failed,) = [o for o in outcomes if o.error]
    assert failed.error == "ValueError: cannot be squared"
    assert len({o.content for o in outcomes if not o.error}) == 2
    assert os.getpid() not in {o.content for o in outcomes}


def test_a_process_that_dies_takes_one_file_with_it():
    outcomes = list(Processes(2).run(Squares(), items(*range(9), "die", *range(9, 18))))
    (failed,) = [o for o in outcomes if o.error]
    assert failed.item.source.name == "die"
    assert "died" in failed.error
    assert sorted(o.num_bytes for o in outcomes if not o.error) == sorted(n**2 for n in range(18))


@pytest.mark.parametrize("purpose", ["detection", "viewing"])
def test_streams_and_what_comes_of_them_do_not_depend_on_the_workers(many, model, tmp_path, capsys, purpose):
    found, decoded, filtered = {}, {}, {}
    for workers in ("1", "2"):
        out, back = tmp_path / f"streams{workers}", tmp_path / f"back{workers}"
        arguments = ["--workers", workers]
        status = main(
            ["compress", str(many), "--for", purpose, "--model", str(model), "-o", str(out), *arguments]
        )
        assert status == 1
        told = capsys.readouterr()
        (line,) = told.err.splitlines()
        assert "skipped" in line
        assert "07.png" in line
        assert f"{COUNT - 1} files" in told.out
        found[workers] = content(out)
        assert main(["decompress", str(out), "--model", str(model), "-o", str(back), *arguments]) == 0
        decoded[workers] = content(back)
        small = tmp_path / f"small{workers}"
        assert (
            main(["preprocess", str(many), "--model", "none", "--size", "20", "-o", str(small), *arguments])
            == 1
        )
        filtered[workers] = content(small)
        capsys.readouterr()
    assert found["1"] == found["2"]
    assert decoded["1"] == decoded["2"]
    assert filtered["1"] == filtered["2"]
    assert len(filtered["1"]) == len(found["1"]) == COUNT - 1
    assert ("detections.json" in decoded["1"]) == (purpose == "detection")


def test_one_process_computes_on_one_thread_as_many_do(many, model, tmp_path, capsys):
    before = torch.get_num_threads()
    streams = tmp_path / "streams"
    runs = [
        ["compress", str(many), "--for", "viewing", "--model", str(model), "-o", str(streams)],
        ["decompress", str(streams), "--model", str(model), "-o", str(tmp_path / "back")],
        ["preprocess", str(many), "--lmbda", "2", "-o", str(tmp_path / "filtered")],
        ["encode", str(many), "--codec", "jpeg", "-o", str(tmp_path / "encoded")],
    ]
    try:
        for arguments in runs:
            torch.set_num_threads(2)
            assert main([*arguments, "--workers", "1"]) in (0, 1)
            assert torch.get_num_threads() == 1, arguments[0]
    finally:
        torch.set_num_threads(before)


def test_ray_gives_what_processes_give(many, model, tmp_path):
    pytest.importorskip("ray")
    whole = {}
    for engine in ("processes", "ray"):
        out = tmp_path / engine
        options = ["--engine", engine, "--workers", "1", "--manifest", str(tmp_path / f"{engine}.jsonl")]
        arguments = ["compress", str(many), "--for", "detection", "--model", str(model), "-o", str(out)]
        done = programs.run(["-m", "vcm", *arguments, *options])
        assert done.returncode == 1, done.stderr
        assert "07.png" in done.stderr
        whole[engine] = content(out)
        found = {row["file"]: (row["bytes"], row["error"]) for row in rows(tmp_path / f"{engine}.jsonl")}
        assert len(found) == COUNT
        whole[f"{engine} rows"] = found
    assert whole["processes"] == whole["ray"]
    assert whole["processes rows"] == whole["ray rows"]
    assert list(run_on_ray(Squares(), [], None)) == []


def test_a_manifest_tells_of_each_file_and_the_run_goes_on(many, model, tmp_path, capsys):
    out, manifest = tmp_path / "out", tmp_path / "logs/manifest.jsonl"
    arguments = ["compress", str(many), "--for", "viewing", "--model", str(model), "-o", str(out)]
    arguments += ["--manifest", str(manifest), "--workers", "2"]
    assert main(arguments) == 1
    first = rows(manifest)
    assert len(first) == COUNT
    for row in first:
        if row["error"]:
            assert row["file"].endswith("07.png")
            continue
        assert Path(row["output"]).stat().st_size == row["bytes"]
        assert row["seconds"] > 0
        assert row["pixels"] == 40 * 48
    # One is done, one's output is lost, one has changed, and the last line is half written.
    lines = manifest.read_text().splitlines()
    lost, changed = many / "01.png", many / "02.png"
    (out / "01.png.vcm").unlink()
    (out / "02.png.vcm").unlink()
    changed.write_bytes((many / "03.png").read_bytes())
    manifest.write_text("\n".join(lines) + '\n{"file": "')
    capsys.readouterr()
    assert main(arguments) == 1
    assert "2 files" in (told := capsys.readouterr().out)
    assert f"{COUNT - 3} already done" in told
    again = rows_that_parse(manifest)[COUNT:]
    assert {row["file"] for row in again if not row["error"]} == {str(lost), str(changed)}


def rows_that_parse(manifest):
    found = []
    for line in manifest.read_text().splitlines()[1:]:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_a_run_killed_with_sigkill_goes_on_to_the_same_files(many, model, tmp_path, command):
    (many / "07.png").unlink()
    given = ["compress", str(many), "--for", "detection", "--model", str(model)]
    if command == "decompress":
        assert main([*given, "-o", str(tmp_path / "streams")]) == 0
        given = ["decompress", str(tmp_path / "streams"), "--model", str(model)]
    results = {}
    for name in ("whole", "broken"):
        manifest = tmp_path / f"{name}.jsonl"
        options = ["-o", str(tmp_path / name), "--manifest", str(manifest), "--workers", "2"]
        start = ["-m", "vcm", *given, *options]
        if name == "broken":
            process = programs.Program(start)
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline and process.poll() is None:
                if manifest.exists() and len(manifest.read_text().splitlines()) > 3:
                    break
                time.sleep(0.002)
            process.kill()
            process.wait()
            wait_for_end_of(process.pid)
            leave = "import sys; from vcm.files import temporary_path; temporary_path(sys.argv[1]).touch()"
            assert programs.run(["-c", leave, str(tmp_path / name / "x")], timeout=60).returncode == 0
            assert 0 < len(rows_that_parse(manifest)) < COUNT - 1
        done = programs.run(start, timeout=200)
        assert done.returncode == 0, done.stderr
        assert ("already done" in done.stdout) == (name == "broken")
        results[name] = content(tmp_path / name)
    assert results["whole"] == results["broken"]
    assert len(results["whole"]) == COUNT - 1 + (command == "decompress")


def test_a_new_manifest_replaces_nothing(many, model, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["compress", str(many), "--for", "viewing", "--model", str(model), "-o", str(out)]
    assert main(arguments) == 1
    (out / "00.png.vcm").write_bytes(b"something else")
    capsys.readouterr()
    assert main([*arguments, "--manifest", str(tmp_path / "m.jsonl")]) == 1
    assert "00.png.vcm exists already" in capsys.readouterr().err
    assert (out / "00.png.vcm").read_bytes() == b"something else"


class Slow:
    """Work of half a second."""

    def __call__(self, item, on_step=None):
        time.sleep(0.5)
        return Outcome(item, 1, 1)


def test_slow_files_are_spread_and_an_interrupt_keeps_what_was_started(tmp_path):
    processes = Processes(2, chunk=1)
    outcomes = processes.run(Slow(), items(*range(20)))
    first = next(outcomes)
    assert first.num_bytes == 1
    outcomes.close()  # as an interrupt does
    rest = list(processes.finish_started())
    assert 1 <= len(rest) <= 5
    assert all(not outcome.error for outcome in rest)


def test_workers_end_with_their_parent(model, tmp_path, write_image):
    for number in range(16):
        write_image(tmp_path / "large" / f"{number}.png", 1200, 1600, seed=number)
    arguments = ["compress", str(tmp_path / "large"), "--for", "viewing", "--model", str(model)]
    process = programs.Program(["-m", "vcm", *arguments, "--workers", "2"])
    deadline = time.monotonic() + 120
    alive = []
    while time.monotonic() < deadline and len(alive) < 4 and process.poll() is None:
        time.sleep(0.01)
        alive = in_session(process.pid)
    process.kill()
    process.wait()
    assert len(alive) >= 4  # itself, the server and two workers
    wait_for_end_of(process.pid)


def wait_for_end_of(session):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and in_session(session):
        time.sleep(0.02)
    assert not in_session(session)


def in_session(session):
    found = []
    for folder in Path("/proc").iterdir():
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(folder.name)
    return found


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers must be a whole number from 1 to 1024; got 0"),
        (["--workers", "2000"], "--workers must be"),
        (["--manifest", "many/00.png"], "is not a vcm manifest"),
        (["--manifest", "many"], "many cannot be read"),
    ],
)
def test_options_that_cannot_be(many, model, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["compress", "many", "--for", "viewing", "--model", str(model), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(many.glob("*.vcm"))


def test_a_manifest_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "m.jsonl"
    Manifest(path, {"quality": 1}).close()
    Manifest(path, {"quality": 1}).close()
    with pytest.raises(OutputError, match="other settings"):
        Manifest(path, {"quality": 2})


def test_an_empty_manifest_is_a_new_one(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text("")  # killed before its first line
    manifest = Manifest(path, {"quality": 1})
    assert not manifest.goes_on
    manifest.close()
    assert json.loads(path.read_text()) == {"settings": {"quality": 1}}


def test_workers_by_default():
    assert default_workers(3, is_slow=False, device="cpu") == 1
    assert default_workers(10_000, is_slow=False, device="cpu") == num_cores()
    assert default_workers(4, is_slow=True, device="cpu") == min(2, num_cores())
    assert default_workers(10_000, is_slow=False, device="cuda") == 1


@pytest.mark.parametrize(
    ("workers", "num_files", "seconds", "expected"),
    [
        (2, 57, [2.0, 0.03, 0.03], 1),
        (2, 10_000, [2.0, 0.03, 0.03], 2),
        (2, 7, [2.0, 0.9, 0.8], 1),
        (2, 8, [2.0, 0.9, 0.8], 2),
        (16, 57, [2.0, 0.06, 0.07], 16),
        (4, 57, [2.0], 4),
        (4, 57, [], 4),
        (2, 10_000, [0.03], 2),
    ],
)
def test_processes_are_started_where_they_save_time(workers, num_files, seconds, expected):
    assert worth_while(workers, num_files, seconds) == expected


def test_a_few_quick_files_are_done_in_this_process(model, tmp_path, write_image, monkeypatch):
    started = []
    monkeypatch.setattr("vcm.cli.bulk.num_cores", lambda: 2)
    plain = bulk.Processes

    def record(*arguments, **settings):
        started.append(arguments)
        return plain(*arguments, **settings)

    monkeypatch.setattr("vcm.cli.bulk.Processes", record)
    for number in range(40):
        write_image(tmp_path / "small" / f"{number}.png", 32, 32, seed=number)
    arguments = ["compress", str(tmp_path / "small"), "--for", "viewing", "--model", str(model)]
    assert main([*arguments, "-o", str(tmp_path / "here")]) == 0
    assert not started
    monkeypatch.setattr("vcm.cli.bulk._START_S", 0.0)
    assert main([*arguments, "-o", str(tmp_path / "there")]) == 0
    assert started == [(2,)]
    here, there = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("here", "there")
    )
    assert here == there
    assert len(here) == 40


def test_files_that_fail_at_once_do_not_decide_on_processes(model, tmp_path, write_image, monkeypatch):
    started = []
    monkeypatch.setattr("vcm.cli.bulk.num_cores", lambda: 2)
    monkeypatch.setattr("vcm.cli.bulk.Processes", lambda *arguments, **_: started.append(arguments) or Here())

    class Here:
        def run(self, work, items):
            return (tried(work, item) for item in items)

    for number in range(40):
        write_image(tmp_path / "small" / f"{number:02}.png", 32, 32, seed=number)
    for number in range(3):
        (tmp_path / "small" / f"{number:02}.png").write_bytes(b"no image")
    arguments = ["compress", str(tmp_path / "small"), "--for", "viewing", "--model", str(model)]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 1
    assert started == [(2,)]
    assert len(list((tmp_path / "out").iterdir())) == 37
