"""What `vcm compress` and `vcm decompress` do where something is wrong."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
import yaml

from vcm.cli.files import Outputs
from vcm.codecs.learned.container import read_stream
from vcm.nn.files import read_notes
from vcm.nn.slimmable import FeatureMap, SlimmableFactorized, save_network

# --- what is left out -----------------------------------------------------------------------------------


def test_one_bad_picture_does_not_stop_the_rest(vcm, photos, tmp_path, files_below):
    (photos / "bad.jpg").write_bytes(b"no picture")
    (photos / "empty.png").touch()
    status, out, err = vcm(
        "compress", photos, tmp_path / "nope.jpg", "--for", "viewing", "-o", tmp_path / "s"
    )
    assert status == 1
    assert out.startswith("3 files, ")
    assert out.endswith("; 3 left out\n")
    assert f"{tmp_path / 'nope.jpg'}: cannot be read: No such file" in err
    assert f"{photos / 'bad.jpg'}: is not a picture" in err
    assert f"{photos / 'empty.png'}: the file is empty" in err
    assert len(files_below(tmp_path / "s")) == 3


def test_one_bad_stream_does_not_stop_the_rest(vcm, photos, tmp_path, write_model, files_below):
    other = write_model(tmp_path, "other.safetensors", seed=1)
    folder = tmp_path / "s"
    vcm("compress", photos, "--for", "viewing", "-o", folder)
    vcm("compress", photos / "sub/7.png", "--for", "viewing", "-o", folder / "other.vcm", use=other)
    data = (folder / "sub/7.png.vcm").read_bytes()
    (folder / "cut.vcm").write_bytes(data[:-9])
    (folder / "flipped.vcm").write_bytes(data[:40] + bytes([data[40] ^ 1]) + data[41:])
    (folder / "photo.vcm").write_bytes((photos / "000000000139.jpg").read_bytes())
    (folder / "empty.vcm").touch()
    status, out, err = vcm("decompress", folder, "-o", tmp_path / "d")
    assert status == 1
    assert out.startswith("3 files, ")
    told = {line.split(": ")[2].rpartition("/")[2]: line for line in err.splitlines()}
    assert set(told) == {"cut.vcm", "flipped.vcm", "photo.vcm", "empty.vcm", "other.vcm"}
    assert "cut short" in told["cut.vcm"]
    assert "damaged" in told["flipped.vcm"]
    assert "but a JPEG file" in told["photo.vcm"]
    assert "empty" in told["empty.vcm"]
    assert "of another model" in told["other.vcm"]
    assert len(files_below(tmp_path / "d")) == 3


def test_a_model_without_that_width(vcm, tmp_path, write_picture, files_below):
    torch.manual_seed(0)
    save_network(SlimmableFactorized({"reconstruction": 4}), tmp_path / "small.safetensors")
    photo = write_picture(tmp_path / "photo.png")
    status, _, err = vcm("compress", photo, "--for", "detection", use=tmp_path / "small.safetensors")
    assert status == 2
    assert "has a width for: viewing; got 'detection'" in err
    vcm("compress", photo, "--for", "detection")
    status, _, err = vcm("decompress", tmp_path / "photo.png.vcm", use=tmp_path / "small.safetensors")
    assert status == 1
    assert "for detection, for which" in err
    assert files_below(tmp_path).count("photo.png.png") == 0


def test_nothing_is_overwritten_unasked(vcm, tmp_path, write_picture):
    photo = write_picture(tmp_path / "photo.png")
    stream = tmp_path / "photo.png.vcm"
    stream.write_bytes(b"precious")
    status, out, err = vcm("compress", photo, "--for", "viewing")
    assert (status, out) == (1, "0 files, 0 bytes; 1 left out\n")
    assert "exists already; --overwrite replaces it" in err
    assert stream.read_bytes() == b"precious"
    assert vcm("compress", photo, "--for", "viewing", "--overwrite")[0] == 0
    read_stream(stream.read_bytes())
    for path in (photo, tmp_path / "photo.png.vcm"):
        status, _, err = vcm("compress", path, "--for", "viewing", "--overwrite", "-o", path)
        assert status == 1
        assert "is read by this command" in err
    status, _, err = vcm("decompress", stream, "--overwrite", "--original", photo, "-o", photo)
    assert status == 1
    assert "is read by this command" in err


def test_existing_predictions_stay(vcm, photos, tmp_path):
    vcm("compress", photos, "--for", "detection")
    (photos / "detections.json").write_text("mine")
    status, out, err = vcm("decompress", photos)
    assert (status, out) == (1, "0 files, 0 bytes; 3 left out\n")
    assert err.count("detections.json exists already") == 3
    assert (photos / "detections.json").read_text() == "mine"
    assert vcm("decompress", photos, "--overwrite")[0] == 0
    json.loads((photos / "detections.json").read_text())


def test_two_inputs_for_one_output(vcm, photos, tmp_path, write_picture):
    write_picture(tmp_path / "more/7.png")
    pictures = (photos / "sub/7.png", tmp_path / "more/7.png")
    status, out, err = vcm("compress", *pictures, "--for", "detection", "-o", tmp_path / "s")
    assert status == 1
    assert out.startswith("1 file, ")
    assert f"{tmp_path / 's/7.png.vcm'} comes of {photos / 'sub/7.png'} already" in err
    for number, picture in enumerate(pictures):
        vcm("compress", picture, "--for", "detection", "-o", tmp_path / f"t/{number}")
    status, out, err = vcm("decompress", tmp_path / "t", "-o", tmp_path / "d")
    assert status == 1
    assert out.startswith("1 file, ")
    assert "has a picture 7 already" in err


def test_originals_that_do_not_fit(vcm, photos, tmp_path, write_picture):
    vcm("compress", photos, "--for", "detection", "-o", tmp_path / "s")
    write_picture(tmp_path / "o/000000000139.jpg", 10, 10)
    write_picture(tmp_path / "o/sub/photo.webp", 54, 54)
    status, out, err = vcm("decompress", tmp_path / "s", "-o", tmp_path / "d", "--original", tmp_path / "o")
    assert status == 1
    assert out.startswith("1 file, ")
    assert "of 64 × 40 pixels" in err
    assert "7.png: cannot be read: No such file" in err
    for original in (tmp_path / "none", photos / "sub/7.png"):
        status, _, err = vcm("decompress", tmp_path / "s", "--original", original)
        assert status == 2
        assert "--original must be a folder of pictures" in err


# --- what stops everything ------------------------------------------------------------------------------


def test_nothing_to_begin_with(vcm, tmp_path):
    (tmp_path / "empty").mkdir()
    status, _, err = vcm("compress", tmp_path / "empty", tmp_path / "nope", "--for", "viewing")
    assert status == 2
    assert "there are no pictures in this folder" in err
    assert "nope: cannot be read: No such file" in err
    status, _, err = vcm("decompress", tmp_path / "empty")
    assert status == 2
    assert "there are no streams in this folder" in err


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_wrong_settings(vcm, model, tmp_path, command, write_picture):
    photo = write_picture(tmp_path / "photo.png")
    options = ["--for", "viewing"] if command == "compress" else []
    for use in (tmp_path / "none.safetensors", photo, tmp_path):
        status, _, err = vcm(command, photo, *options, use=use)
        assert status == 2
        assert "cannot be read as a model" in err
    status, _, err = vcm(command, photo, *options, "--device", "tpu")
    assert status == 2
    assert "device must be" in err
    if command == "compress":
        status, _, err = vcm(command, photo, "--for", "segmentation")
        assert "a width for: detection, classification, viewing; got 'segmentation'" in err
    else:
        status, _, err = vcm(command, photo, "--min-score", 3)
        assert status == 2
        assert "--min-score must be a number from 0 to 1" in err
        status, _, err = vcm(command, photo, "-o", tmp_path / "out.jpg")
        assert status == 2
        assert "ends in .png or .json" in err


def test_a_picture_is_not_named_json(vcm, tmp_path, write_picture):
    vcm("compress", write_picture(tmp_path / "photo.png"), "--for", "viewing")
    status, _, err = vcm("decompress", tmp_path / "photo.png.vcm", "-o", tmp_path / "photo.json")
    assert status == 1
    assert "name it .png" in err


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (None, "does not say which network its width for detection serves"),
        ({"_target_": "os.system", "command": "true"}, "not vcm's own"),
        ({"_target_": "vcm.tasks.YOLOTask", "cfg": "none.cfg"}, "none.cfg"),
        ({"_target_": "vcm.tasks.YOLOTask", "cfg": "${asset:nothing,a}"}, "no asset 'nothing'"),
        ({"_target_": "vcm.tasks.YOLOTask", "cfg": "yolov3", "colour": 1}, "colour"),
        (
            {"_target_": "vcm.tasks.ClassificationTask", "architecture": "resnet50", "weights": None},
            "task.cut",
        ),
    ],
)
def test_a_task_that_cannot_be_built(vcm, tmp_path, plan, message, write_model, write_picture):
    model = write_model(tmp_path, detection=plan)
    status, _, err = vcm("compress", write_picture(tmp_path / "a.png"), "--for", "detection", use=model)
    assert status == 2
    assert message in err


def test_missing_weights_tell_how_to_fetch_them(vcm, tmp_path, monkeypatch, write_model, write_picture):
    monkeypatch.setenv("VCM_CACHE", str(tmp_path / "cache"))
    plan = yaml.safe_load((Path(__file__).parents[2] / "conf/task/yolov3_tiny.yaml").read_text())
    model = write_model(tmp_path, detection=plan)
    status, _, err = vcm("compress", write_picture(tmp_path / "a.png"), "--for", "detection", use=model)
    assert status == 2
    assert "vcm fetch yolov3-tiny" in err


def test_a_damaged_note(vcm, tmp_path, write_picture):
    network = SlimmableFactorized({"detection": 4}, features={"detection": FeatureMap(5, 8)})
    save_network(network, tmp_path / "m.safetensors", tasks="{", made="today")
    photo = write_picture(tmp_path / "a.png")
    status, _, err = vcm("compress", photo, "--for", "detection", use=tmp_path / "m.safetensors")
    assert status == 2
    assert "note of tasks is damaged" in err
    assert read_notes(tmp_path / "m.safetensors") == {"tasks": "{", "made": "today"}


# --- places that take no files --------------------------------------------------------------------------


def test_a_full_disk_leaves_no_half_file(vcm, tmp_path, monkeypatch, write_picture, files_below):
    photo = write_picture(tmp_path / "photo.png")

    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    opened = Path.open

    def open_file(path, mode="r", *rest, **more):
        file = opened(path, mode, *rest, **more)
        if mode != "wb":
            return file
        file.close()
        return Full()

    monkeypatch.setattr(Path, "open", open_file)
    status, _, err = vcm("compress", photo, "--for", "viewing")
    assert status == 1
    assert "photo.png.vcm cannot be written: No space left on device." in err
    assert files_below(tmp_path) == ["photo.png"]


def test_an_output_folder_that_is_a_file(vcm, tmp_path, write_picture):
    photo = write_picture(tmp_path / "photo.png")
    (tmp_path / "file").touch()
    for command, given in (("compress", photo), ("compress", tmp_path)):
        status, _, err = vcm(command, given, "--for", "viewing", "-o", tmp_path / "file/below")
        assert status == 1
        assert f"{tmp_path / 'file'} is a file" in err


def test_a_folder_that_takes_no_files(vcm, tmp_path, monkeypatch, write_picture):
    photo = write_picture(tmp_path / "photo.png")
    monkeypatch.setattr(os, "access", lambda *_: False)
    status, _, err = vcm("compress", photo, "--for", "viewing", "-o", tmp_path / "new")
    assert status == 1
    assert f"no files can be made in {tmp_path}" in err
    assert not (tmp_path / "new").exists()


def test_an_interrupted_write_leaves_what_was_there(tmp_path, files_below):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), Outputs([], overwrite=True).write(path) as file:
        file.write(b"ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert files_below(tmp_path) == ["a.json"]
