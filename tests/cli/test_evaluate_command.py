import json
import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

import programs

TWO = ("codec=[jpeg]", "codecs.jpeg.qualities=[10,50]", "examples=1")


@pytest.fixture
def vcm(asset_path, tmp_path):
    """Runs `vcm evaluate` from an empty folder."""
    for name, file in (("yolov3-tiny", "yolov3-tiny.cfg"), ("coco-sample", "images")):
        asset_path(name, file)

    def vcm(*arguments, **environment):
        command = ["-m", "vcm", "evaluate", *arguments]
        return programs.run(command, cwd=tmp_path, env={**os.environ, **environment})

    return vcm


def content(folder):
    kept = [path for path in folder.rglob("*") if path.suffix in (".jsonl", ".json", ".csv", ".png")]
    changing = ("timings", "provenance")
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(kept)
        if not any(word in path.name for word in changing)
    }


def test_killed_with_sigkill_and_restarted_gives_the_same_bytes(vcm, tmp_path):
    arguments = (*TWO, "data.test.limit=18", "workers=1")
    whole = vcm(*arguments, "run_dir=whole")
    assert whole.returncode == 0, whole.stderr
    assert "jpeg" in whole.stdout
    command = ["-m", "vcm", "evaluate", *arguments, "run_dir=broken"]
    process = programs.Program(command, cwd=tmp_path)
    records = tmp_path / "broken/records"
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if any(len(path.read_text().splitlines()) > 4 for path in records.glob("jpeg-*[0-9a-f].jsonl")):
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "broken/results.json").exists()
    again = vcm(*arguments, "run_dir=broken")
    assert again.returncode == 0, again.stderr
    assert content(tmp_path / "broken") == content(tmp_path / "whole")
    assert {"bootstrap.json", "results.csv"} < set(content(tmp_path / "whole"))


MISTAKES = [
    (["codec=[jpg]"], "codec must be one of"),
    (["quality=5"], "quality"),
    ([*TWO, "codecs.jpeg.qualities=[101]"], "quality must be a whole number from 1 to 100"),
    ([*TWO, "codecs.jpeg.qualities=[high]"], "got 'high'"),
    ([*TWO, "codecs.jpeg.qualities=[]"], "at least one quality"),
    (["codec=[bpgenc]"], "BPGCodec"),
    ([*TWO, "task.weights=nowhere.weights"], "nowhere.weights"),
    ([*TWO, "data=images", "data.test.root=nowhere"], "no such folder"),
    ([*TWO, "data=images", "data.test.root=."], "contains no images"),
    ([*TWO, "data=images"], "data.test.root"),
    ([*TWO, "device=cuda:7"], "device must be"),
    ([*TWO, "labels=[gold]"], "labels must be"),
    ([*TWO, "task=yolov3"], "task.weights"),
]
SLOW = [pytest.param(*mistake, marks=pytest.mark.slow) for mistake in MISTAKES[3:]]


@pytest.mark.parametrize(("arguments", "message"), [*MISTAKES[:3], *SLOW])
def test_mistakes_are_told_without_a_traceback(vcm, arguments, message):
    done = vcm(*arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_asset_that_is_not_fetched(vcm, tmp_path):
    done = vcm(*TWO, VCM_CACHE=str(tmp_path / "empty"))
    assert done.returncode == 2
    assert "vcm fetch yolov3-tiny" in done.stderr


def test_bad_images_among_good_ones(vcm, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    colour.save(folder / "good.png")
    colour.convert("CMYK").save(folder / "cmyk.jpg")
    colour.quantize(8).save(folder / "palette.png")
    colour.convert("L").save(folder / "grey.png")
    colour.convert("RGBA").save(folder / "alpha.png")
    Image.fromarray(rng.integers(0, 65536, (48, 64), dtype=np.uint16)).save(folder / "sixteen.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.save(folder / "rotated.jpg", exif=exif)
    Image.new("RGB", (1, 1)).save(folder / "one.png")
    Image.new("RGB", (1, 5000)).save(folder / "long.png")
    colour.save(folder / "truncated.jpg")
    (folder / "truncated.jpg").write_bytes((folder / "truncated.jpg").read_bytes()[:900])
    (folder / "text.jpg").write_text("not an image")
    done = vcm("codec=[jpeg,bpg]", "codecs.jpeg.qualities=[50]", "codecs.bpg.qualities=[37]", "data=images",
               f"data.test.root={folder}")  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "2 images skipped" in done.stderr
    assert "truncated.jpg" in done.stderr
    assert "text.jpg" in done.stderr
    results = json.loads((tmp_path / "runs/evaluate/results.json").read_text())
    assert [point["num_images"] for point in results["points"]] == [9, 9]
    assert results["points"][0]["num_pixels"] == 7 * 48 * 64 + 1 + 5000


def test_sweep_has_a_folder_a_job_and_the_worst_status(vcm, tmp_path):
    done = vcm(
        "--multirun", "codec=[jpeg]", "codecs.jpeg.qualities=[20],[200]", "data.test.limit=1", "name=sweep"
    )
    assert done.returncode == 2
    assert "from 1 to 100" in done.stderr
    assert len(list(tmp_path.glob("runs/sweep/*/results.json"))) == 1


def test_classifier_on_images(vcm, asset_path, coco_images, tmp_path):
    asset_path("mobilenet-v2", "mobilenet_v2-b0353104.pth")
    (tmp_path / "images").mkdir()
    for path in coco_images[:3]:
        (tmp_path / "images" / path.name).symlink_to(path)
    done = vcm(*TWO, "task=mobilenet_v2", "data=images", "data.test.root=images")
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "runs/evaluate/results.json").read_text())
    assert results["originals"] == {"pseudo": {"top_1": 1.0, "top_5": 1.0}}
    assert [point["labels"] for point in results["points"]] == ["pseudo"] * 2
