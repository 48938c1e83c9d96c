"""What `vcm compress` and `vcm decompress` do where something is wrong."""

import errno
import json
import os
from pathlib import Path

import pytest
import torch
import yaml

from vcm.cli.paths import writing
from vcm.codecs.learned.container import read_stream
from vcm.nn.preprocessor import NPP, save_preprocessor
from vcm.nn.serialization import read_notes
from vcm.nn.slimmable import FeatureMap, SlimmableFactorized, save_network

# --- what is left out -----------------------------------------------------------------------------------


def test_one_bad_image_does_not_stop_the_rest(vcm, photos, tmp_path, files_below):
    (photos / "bad.jpg").write_bytes(b"no image")
    (photos / "empty.png").touch()
    status, out, err = vcm(
        "compress", photos, tmp_path / "nope.jpg", "--for", "viewing", "-o", tmp_path / "s"
    )
    assert status == 1
    assert out.startswith("3 files, ")
    assert out.endswith("; 3 skipped\n")
    assert f"{tmp_path / 'nope.jpg'}: cannot be read: No such file" in err
    assert f"{photos / 'bad.jpg'}: is not an image" in err
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
    assert "with another model" in told["other.vcm"]
    assert len(files_below(tmp_path / "d")) == 3


def test_a_model_without_that_width(vcm, tmp_path, write_image, files_below):
    torch.manual_seed(0)
    save_network(SlimmableFactorized({"reconstruction": 4}), tmp_path / "small.safetensors")
    photo = write_image(tmp_path / "photo.png")
    status, _, err = vcm("compress", photo, "--for", "detection", use=tmp_path / "small.safetensors")
    assert status == 2
    assert "small.safetensors: viewing; got 'detection'" in err
    vcm("compress", photo, "--for", "detection")
    status, _, err = vcm("decompress", tmp_path / "photo.png.vcm", use=tmp_path / "small.safetensors")
    assert status == 1
    assert "is for detection, a task that" in err
    assert files_below(tmp_path).count("photo.png.png") == 0


def test_nothing_is_overwritten_unasked(vcm, tmp_path, write_image):
    photo = write_image(tmp_path / "photo.png")
    stream = tmp_path / "photo.png.vcm"
    stream.write_bytes(b"precious")
    status, out, err = vcm("compress", photo, "--for", "viewing")
    assert (status, out) == (1, "0 files, 0 bytes; 1 skipped\n")
    assert "exists already. Use --overwrite to replace it" in err
    assert stream.read_bytes() == b"precious"
    assert vcm("compress", photo, "--for", "viewing", "--overwrite")[0] == 0
    read_stream(stream.read_bytes())
    for path in (photo, tmp_path / "photo.png.vcm"):
        status, _, err = vcm("compress", path, "--for", "viewing", "--overwrite", "-o", path)
        assert status == 1
        assert "is an input of this command" in err
    status, _, err = vcm("decompress", stream, "--overwrite", "--original", photo, "-o", photo)
    assert status == 1
    assert "is an input of this command" in err


def test_existing_predictions_stay(vcm, photos, tmp_path):
    vcm("compress", photos, "--for", "detection")
    (photos / "detections.json").write_text("mine")
    status, out, err = vcm("decompress", photos)
    assert (status, out) == (1, "0 files, 0 bytes; 3 skipped\n")
    assert err.count("detections.json exists already") == 3
    assert (photos / "detections.json").read_text() == "mine"
    assert vcm("decompress", photos, "--overwrite")[0] == 0
    json.loads((photos / "detections.json").read_text())


def test_two_inputs_for_one_output(vcm, photos, tmp_path, write_image):
    write_image(tmp_path / "more/7.png")
    images = (photos / "sub/7.png", tmp_path / "more/7.png")
    status, out, err = vcm("compress", *images, "--for", "detection", "-o", tmp_path / "s")
    assert status == 1
    assert out.startswith("1 file, ")
    assert f"{tmp_path / 's/7.png.vcm'} is already the output of {photos / 'sub/7.png'}" in err
    for number, image in enumerate(images):
        vcm("compress", image, "--for", "detection", "-o", tmp_path / f"t/{number}")


@pytest.mark.parametrize("by_name", [True, False])
def test_images_of_the_same_name_keep_their_detections(vcm, photos, tmp_path, write_image, by_name):
    names = ("a/7.png", "b/7.png", "b/7.jpg", "b/c/9.png")
    for number, name in enumerate(names):
        write_image(tmp_path / "in" / name, seed=number)
    assert vcm("compress", tmp_path / "in", "--for", "detection", "-o", tmp_path / "t")[0] == 0
    streams = [tmp_path / "t" / f"{name}.vcm" for name in names] if by_name else [tmp_path / "t"]
    status, out, err = vcm("decompress", *streams, "-o", tmp_path / "d")
    if by_name:  # as boxes are drawn into two files of one name
        assert status == 1
        assert "7.png.png is already the output of" in err
        return
    assert (status, err) == (0, "")
    assert out.startswith("4 files, ")
    results = json.loads((tmp_path / "d/detections.json").read_text())
    assert {entry["image_id"] for entry in results} == {"a/7.png", "b/7.png", "b/7.jpg", 9}
    alone = tmp_path / "alone"
    vcm("decompress", tmp_path / "t/b/7.png.vcm", "-o", alone)
    own = json.loads((alone / "7.png.json").read_text())
    assert [(e["bbox"], e["score"]) for e in results if e["image_id"] == "b/7.png"] == [
        (e["bbox"], e["score"]) for e in own
    ]


def test_folders_that_hold_the_same_names_stay_apart(vcm, tmp_path, write_image, files_below):
    for number, name in enumerate(("a/7.png", "b/7.png", "b/8.png")):
        write_image(tmp_path / name, seed=number)
    folders = (tmp_path / "a", tmp_path / "b")
    assert vcm("compress", *folders, "--for", "detection", "-o", tmp_path / "s")[0] == 0
    assert files_below(tmp_path / "s") == ["a/7.png.vcm", "b/7.png.vcm", "b/8.png.vcm"]


def test_compressing_again_goes_on_where_it_was_stopped(vcm, photos, tmp_path, write_model, files_below):
    arguments = ("compress", photos, "--for", "viewing", "-o", tmp_path / "s")
    assert vcm(*arguments)[0] == 0
    before = {name: (tmp_path / "s" / name).read_bytes() for name in files_below(tmp_path / "s")}
    (tmp_path / "s/sub/7.png.vcm").unlink()
    status, out, err = vcm(*arguments)
    assert (status, err) == (0, "")
    assert out.startswith("1 file, ")
    assert out.endswith("; 2 already done\n")
    assert {name: (tmp_path / "s" / name).read_bytes() for name in before} == before
    assert vcm(*arguments)[:2] == (0, "0 files, 0 bytes; 3 already done\n")


def test_what_is_there_but_not_what_would_be_made_is_no_success(vcm, photos, tmp_path, write_model):
    photo, stream = photos / "sub/7.png", tmp_path / "7.png.vcm"
    arguments = ("compress", photo, "--for", "viewing", "-o", stream)
    other = write_model(tmp_path, "other.safetensors", seed=1)
    assert vcm(*arguments, use=other)[0] == 0
    assert vcm(*arguments)[0] == 1  # another model's
    assert vcm(*arguments, "--overwrite")[0] == 0
    assert vcm("compress", photo, "--for", "detection", "-o", stream)[0] == 1  # for another purpose
    assert vcm(*arguments)[0] == 0
    data = stream.read_bytes()
    stream.write_bytes(data[:-1])  # cut short
    assert vcm(*arguments)[0] == 1
    stream.write_bytes(data)
    os.utime(stream, ns=(0, 0))  # older than the image
    status, _, err = vcm(*arguments)
    assert status == 1
    assert "exists already. Use --overwrite to replace it" in err


def test_a_stream_of_another_image_is_no_success(vcm, tmp_path, write_image):
    arguments = ("compress", tmp_path / "a.png", "--for", "viewing")
    write_image(tmp_path / "a.png", 40, 50)
    assert vcm(*arguments)[0] == 0
    other = write_image(tmp_path / "b.png", 70, 90)
    os.utime(other, ns=(0, 0))
    other.replace(tmp_path / "a.png")
    status, _, err = vcm(*arguments)
    assert (status, "exists already" in err) == (1, True)


def test_an_image_that_is_not_the_streams_is_no_success(vcm, tmp_path, write_image):
    photo = write_image(tmp_path / "a.png")
    for purpose in ("viewing", "detection"):
        stream = tmp_path / f"{purpose}.vcm"
        vcm("compress", photo, "--for", purpose, "-o", stream)
        assert vcm("decompress", stream)[0] == 0
        (tmp_path / f"{purpose}.json").unlink(missing_ok=True)
        assert vcm("decompress", stream)[0] == 0
        (tmp_path / f"{purpose}.json").unlink(missing_ok=True)
        if purpose == "detection":
            status, _, err = vcm("decompress", stream, "--min-score", "0.9")
            assert (status, "detection.png exists already" in err) == (1, True)
        write_image(tmp_path / f"{purpose}.png")
        status, _, err = vcm("decompress", stream)
        assert (status, f"{purpose}.png exists already" in err) == (1, True)


def test_ids_never_meet(vcm, tmp_path, write_image):
    for number, name in enumerate(("x.jpg", "x.png", "x.jpg.webp")):
        write_image(tmp_path / "z" / name, seed=number)
    vcm("compress", tmp_path / "z", "--for", "classification", "-o", tmp_path / "s")
    assert vcm("decompress", tmp_path / "s", "-o", tmp_path / "d")[0] == 0
    found = json.loads((tmp_path / "d/classifications.json").read_text())
    assert sorted(entry["image_id"] for entry in found) == ["x.jpg", "x.jpg.webp", "x.png"]


def test_folders_of_one_name_stay_apart(vcm, tmp_path, write_image, files_below):
    for number, name in enumerate(("x/imgs/1.png", "y/imgs/1.png")):
        write_image(tmp_path / name, seed=number)
    folders = (tmp_path / "x/imgs", tmp_path / "y/imgs")
    assert vcm("compress", *folders, "--for", "viewing", "-o", tmp_path / "s")[0] == 0
    assert files_below(tmp_path / "s") == ["x/imgs/1.png.vcm", "y/imgs/1.png.vcm"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "cfg", ["${.z9}", "${oc.env:SECRET}", "a ${asset:yolov3-tiny,yolov3-tiny.cfg}", "${asset:a,${b}}"]
)
def test_a_hostile_note_of_tasks_unfolds_and_reads_nothing(
    vcm, tmp_path, write_image, write_model, cfg, monkeypatch
):
    monkeypatch.setenv("SECRET", "hunter2")
    note = {"_target_": "vcm.tasks.YOLOTask", "cfg": cfg, "z0": "x" * 1000}
    note |= {f"z{n + 1}": f"${{.z{n}}}" * 12 for n in range(9)}
    model = write_model(tmp_path, "laughs.safetensors", detection=note)
    status, _, err = vcm("compress", write_image(tmp_path / "p.png"), "--for", "detection", use=model)
    assert status == 2
    assert "tasks must be plain values or ${asset:NAME,FILE}" in err
    assert "hunter2" not in err


def test_decompressing_again_goes_on_where_it_was_stopped(vcm, photos, tmp_path):
    for purpose in ("viewing", "detection"):
        streams, outputs = tmp_path / f"s-{purpose}", tmp_path / f"d-{purpose}"
        vcm("compress", photos, "--for", purpose, "-o", streams)
        assert vcm("decompress", streams, "-o", outputs)[0] == 0
        drawn = {path: path.read_bytes() for path in outputs.rglob("*.png")}
        (outputs / "sub/7.png.png").unlink()
        found = outputs / "detections.json"
        before = found.read_text() if found.exists() else ""
        found.unlink(missing_ok=True)  # it comes last
        status, out, err = vcm("decompress", streams, "-o", outputs)
        assert (status, err) == (0, "")
        assert out.startswith("1 file, " if purpose == "viewing" else "3 files, ")
        assert {path: path.read_bytes() for path in outputs.rglob("*.png")} == drawn
        assert (found.read_text() if before else "") == before


@pytest.mark.timeout(60)
def test_inputs_that_are_no_regular_files_are_left_out(vcm, photos, tmp_path):
    os.mkfifo(tmp_path / "fifo.jpg")
    os.mkfifo(tmp_path / "fifo.vcm")
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(20 << 30)
    given = (tmp_path / "fifo.jpg", "/dev/zero", tmp_path / "sparse.png", tmp_path / ("x" * 300), "a" * 5000)
    status, out, err = vcm("compress", photos / "sub/7.png", *given, "--for", "viewing", "-o", tmp_path / "s")
    assert status == 1
    assert out.startswith("1 file, ")
    assert out.endswith("; 5 skipped\n")
    assert "it is a FIFO, not a regular file" in err
    assert "it is a character device, not a regular file" in err
    assert "more than the limit of" in err
    assert err.count("File name too long") == 2
    status, _, err = vcm("info", tmp_path / "fifo.vcm", "/dev/zero")
    assert status == 1
    assert err.count("not a regular file") == 2


def test_control_characters_of_names_do_not_reach_the_terminal(vcm, tmp_path):
    name = "evil\x1b]0;title\x07\r.jpg"
    (tmp_path / name).write_bytes(b"no image")
    for command in (
        ("compress", tmp_path, "--for", "viewing"),
        ("info", tmp_path / name),
        ("preprocess", tmp_path / name),
    ):
        use = {"use": write_npp(tmp_path)} if command[0] == "preprocess" else {}
        _, out, err = vcm(*command, **use)
        assert "evil\\x1b]0;title\\x07\\r.jpg" in err
        assert "\x1b" not in out + err


def write_npp(folder):
    save_preprocessor(NPP((2, 2, 2, 2)), folder / "npp.safetensors")
    return folder / "npp.safetensors"


def test_a_link_at_an_output_is_never_followed(vcm, photos, tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "s").mkdir()
    (tmp_path / "s/7.png.vcm").symlink_to(tmp_path / "victim")
    arguments = ("compress", photos / "sub/7.png", "--for", "viewing", "-o", tmp_path / "s")
    assert vcm(*arguments)[0] == 1
    assert vcm(*arguments, "--overwrite")[0] == 0
    assert (tmp_path / "victim").read_text() == "precious"
    read_stream((tmp_path / "s/7.png.vcm").read_bytes())


def test_originals_that_do_not_fit(vcm, photos, tmp_path, write_image):
    vcm("compress", photos, "--for", "detection", "-o", tmp_path / "s")
    write_image(tmp_path / "o/000000000139.jpg", 10, 10)
    write_image(tmp_path / "o/sub/photo.webp", 54, 54)
    status, out, err = vcm("decompress", tmp_path / "s", "-o", tmp_path / "d", "--original", tmp_path / "o")
    assert status == 1
    assert out.startswith("1 file, ")
    assert "of 64 × 40 pixels" in err
    assert "7.png: cannot be read: No such file" in err
    for original in (tmp_path / "none", photos / "sub/7.png"):
        status, _, err = vcm("decompress", tmp_path / "s", "--original", original)
        assert status == 2
        assert "--original must be a folder of images" in err


# --- what stops everything ------------------------------------------------------------------------------


def test_nothing_to_begin_with(vcm, tmp_path):
    (tmp_path / "empty").mkdir()
    status, _, err = vcm("compress", tmp_path / "empty", tmp_path / "nope", "--for", "viewing")
    assert status == 2
    assert "there are no images in this folder" in err
    assert "nope: cannot be read: No such file" in err
    status, _, err = vcm("decompress", tmp_path / "empty")
    assert status == 2
    assert "there are no streams in this folder" in err


@pytest.mark.parametrize("command", ["compress", "decompress"])
def test_wrong_settings(vcm, model, tmp_path, command, write_image):
    photo = write_image(tmp_path / "photo.png")
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
        assert ": detection, classification, viewing; got 'segmentation'" in err
    else:
        status, _, err = vcm(command, photo, "--min-score", 3)
        assert status == 2
        assert "--min-score must be a number from 0 to 1" in err
        status, _, err = vcm(command, photo, "-o", tmp_path / "out.jpg")
        assert status == 2
        assert "ends in .png or .json" in err


def test_a_image_is_not_named_json(vcm, tmp_path, write_image):
    vcm("compress", write_image(tmp_path / "photo.png"), "--for", "viewing")
    status, _, err = vcm("decompress", tmp_path / "photo.png.vcm", "-o", tmp_path / "photo.json")
    assert status == 1
    assert "Use a name ending in .png" in err


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (None, "does not record the network of its task 'detection'"),
        ({"_target_": "os.system", "command": "true"}, "not a class of vcm"),
        ({"_target_": "vcm.tasks.YOLOTask", "cfg": "none.cfg"}, "none.cfg"),
        ({"_target_": "vcm.tasks.YOLOTask", "cfg": "${asset:nothing,a}"}, "no asset 'nothing'"),
        ({"_target_": "vcm.tasks.YOLOTask", "cfg": "yolov3", "colour": 1}, "colour"),
        (
            {"_target_": "vcm.tasks.ClassificationTask", "architecture": "resnet50", "weights": None},
            "task.cut",
        ),
    ],
)
def test_a_task_that_cannot_be_built(vcm, tmp_path, plan, message, write_model, write_image):
    model = write_model(tmp_path, detection=plan)
    status, _, err = vcm("compress", write_image(tmp_path / "a.png"), "--for", "detection", use=model)
    assert status == 2
    assert message in err


def test_missing_weights_tell_how_to_fetch_them(vcm, tmp_path, monkeypatch, write_model, write_image):
    monkeypatch.setenv("VCM_CACHE", str(tmp_path / "cache"))
    plan = yaml.safe_load((Path(__file__).parents[2] / "conf/task/yolov3_tiny.yaml").read_text())
    model = write_model(tmp_path, detection=plan)
    status, _, err = vcm("compress", write_image(tmp_path / "a.png"), "--for", "detection", use=model)
    assert status == 2
    assert "vcm fetch yolov3-tiny" in err


def test_a_damaged_note(vcm, tmp_path, write_image):
    network = SlimmableFactorized({"detection": 4}, features={"detection": FeatureMap(5, 8)})
    save_network(network, tmp_path / "m.safetensors", tasks="{", made="today")
    photo = write_image(tmp_path / "a.png")
    status, _, err = vcm("compress", photo, "--for", "detection", use=tmp_path / "m.safetensors")
    assert status == 2
    assert "tasks must be a JSON object" in err
    assert read_notes(tmp_path / "m.safetensors") == {"tasks": "{", "made": "today"}


# --- places that take no files --------------------------------------------------------------------------


def test_a_full_disk_leaves_no_half_file(vcm, tmp_path, monkeypatch, write_image, files_below):
    photo = write_image(tmp_path / "photo.png")

    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def flush(self):
            return None

    opened = os.fdopen

    def open_file(descriptor, mode="r", *rest, **more):
        file = opened(descriptor, mode, *rest, **more)
        if mode != "wb":
            return file
        file.close()
        return Full()

    monkeypatch.setattr(os, "fdopen", open_file)
    status, _, err = vcm("compress", photo, "--for", "viewing")
    assert status == 1
    assert "photo.png.vcm cannot be written: No space left on device." in err
    assert files_below(tmp_path) == ["photo.png"]


def test_an_output_folder_that_is_a_file(vcm, tmp_path, write_image):
    photo = write_image(tmp_path / "photo.png")
    (tmp_path / "file").touch()
    for command, given in (("compress", photo), ("compress", tmp_path)):
        status, _, err = vcm(command, given, "--for", "viewing", "-o", tmp_path / "file/below")
        assert status == 1
        assert f"{tmp_path / 'file'} is a file" in err


def test_a_folder_that_takes_no_files(vcm, tmp_path, monkeypatch, write_image):
    photo = write_image(tmp_path / "photo.png")
    monkeypatch.setattr(os, "access", lambda *_: False)
    status, _, err = vcm("compress", photo, "--for", "viewing", "-o", tmp_path / "new")
    assert status == 1
    assert f"the folder {tmp_path} is not writable" in err
    assert not (tmp_path / "new").exists()


def test_an_interrupted_write_leaves_what_was_there(tmp_path, files_below):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), writing(path) as file:
        file.write(b"ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert files_below(tmp_path) == ["a.json"]
