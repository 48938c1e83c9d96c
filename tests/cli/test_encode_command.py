"""`vcm encode`, and `vcm preprocess --size`: files for a known reader."""

import json

import pytest
import torch

from vcm.cli.main import main
from vcm.cli.preprocess import scale_to_side
from vcm.cli.tasks import load_task
from vcm.codecs import BPGCodec, JPEGCodec, qp_offsets
from vcm.data import read_image
from vcm.encoding.preprocessing import NPPPreprocessor
from vcm.encoding.reader import scale_to_reader
from vcm.encoding.search import ImageSearch
from vcm.errors import ArgumentError
from vcm.nn.importance import ImportanceNetwork, save_importance
from vcm.nn.preprocessor import NPP, load_preprocessor, save_preprocessor
from vcm.tasks import YOLOTask
from vcm.weights import QA_NPP_BPG, shipped


@pytest.fixture
def encode(capsys):
    def run(*arguments, command="encode"):
        status = main([command, *map(str, arguments)])
        return (status, *capsys.readouterr())

    return run


@pytest.fixture
def detector(asset_path):
    folder = "yolov3-tiny"
    return YOLOTask(asset_path(folder, "yolov3-tiny.cfg"), asset_path(folder, "yolov3-tiny.weights"))


@pytest.fixture
def image(coco_images, tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(coco_images[0].read_bytes())
    return path


FAST = ("--quality", 40, "--preset", "ultrafast")


def test_a_folder_on_two_processes_with_a_manifest(encode, coco_images, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in coco_images[:4]:
        (folder / path.name).write_bytes(path.read_bytes())
    options = (*FAST, "--for", "detection", "--at-reader")
    assert encode(folder, *options, "-o", tmp_path / "one")[0] == 0
    options = (*options, "-o", tmp_path / "two", "--manifest", tmp_path / "m.jsonl", "--workers", 2)
    assert encode(folder, *options)[0] == 0
    one, two = ({p.name: p.read_bytes() for p in (tmp_path / n).iterdir()} for n in ("one", "two"))
    assert one == two
    status, out, _ = encode(folder, *options)
    assert status == 0
    assert "4 already done" in out
    lines = (tmp_path / "m.jsonl").read_text().splitlines()
    (tmp_path / "m.jsonl").write_text("\n".join(lines[:-1]) + "\n")  # killed before it was noted
    status, out, _ = encode(folder, *options)
    assert status == 0
    assert "3 already done" in out


def test_a_manifest_holds_the_weights_of_a_model_and_not_its_path(encode, image, tmp_path):
    files = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for seed, file in enumerate(files):
        torch.manual_seed(seed)
        save_importance(ImportanceNetwork(), file)
    command = (image, *FAST, "-o", tmp_path / "out", "--manifest", tmp_path / "m.jsonl", "--importance-model")
    assert encode(*command, files[0])[0] == 0
    files[0].rename(tmp_path / "moved.safetensors")
    status, out, _ = encode(*command, tmp_path / "moved.safetensors")
    assert status == 0
    assert "1 already done" in out
    files[1].rename(files[0])
    status, _, err = encode(*command, files[0])
    assert status == 2
    assert "belongs to a run with other settings" in err


def test_plain_files_are_the_codecs_own(encode, image, tmp_path):
    status, out, err = encode(image, *FAST)
    assert (status, err) == (0, "")
    pixels = read_image(image)
    stream = BPGCodec(40, preset="ultrafast").encode(pixels)
    assert (tmp_path / "photo.bpg").read_bytes() == stream
    assert f"{len(stream):,} bytes, {8 * len(stream) / pixels[0].numel():.4f} bpp" in out
    status, _, err = encode(image, *FAST)
    assert status == 1
    assert "exists already. Use --overwrite to replace it" in err
    assert encode(image, "--codec", "jpeg", "--quality", 30, "-o", tmp_path / "out.jpg")[0] == 0
    assert (tmp_path / "out.jpg").read_bytes() == JPEGCodec(30).encode(pixels)


def test_for_a_detector(encode, image, detector, tmp_path):
    pixels = read_image(image)
    scaled = scale_to_reader(pixels, detector)
    assert max(scaled.shape) == 416
    codec = BPGCodec(40, preset="ultrafast")

    def expected(coded, **options):
        offsets = qp_offsets(detector.importance(coded.float() / 255), **options)
        return codec.encode(coded, offsets, block=options.get("block", 32))

    cases = {
        (): expected(pixels),
        ("--at-reader",): expected(scaled),
        ("--at-reader", "--no-importance"): codec.encode(scaled),
        ("--alpha", 1, "--block", 16, "--clip", 4): expected(pixels, alpha=1, block=16, clip=4),
    }
    for number, (options, stream) in enumerate(cases.items()):
        target = tmp_path / f"{number}.bpg"
        status, out, err = encode(image, *FAST, "--for", "detection", *options, "-o", target)
        assert (status, err) == (0, ""), options
        assert target.read_bytes() == stream, options
        assert f"{8 * len(stream) / pixels[0].numel():.4f} bpp" in out
    assert len(set(cases.values())) == 4
    target = tmp_path / "at.webp"
    status = encode(image, "--codec", "webp", "--for", "yolov3_tiny", "--at-reader", "-o", target)[0]
    assert (status, read_image(target).shape) == (0, scaled.shape)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--at-reader"], "--at-reader must be given with --for TASK"),
        (["--codec", "bgp"], "--codec must be one of avif, bpg,"),
        (["--codec", "learned"], "use `vcm compress`"),
        (["--quality", "52"], "quality must be"),
        (["--codec", "jpeg", "--preset", "fast"], "--preset must be given with --codec bpg"),
        (["--for", "yolo"], "--for must be one of detection, classification, faster_rcnn"),
        (["--alpha", "1"], "--alpha must be given with --for TASK"),
        (["--for", "detection", "--no-importance", "--clip", "3"], "--clip must be given with --for TASK"),
        (["--for", "detection", "--codec", "jpeg", "--block", "32"], "--block must be given with"),
        (["--for", "detection", "--block", "8"], "block must be one of 16, 32, 64; got 8"),
        (["-o", "out.jpg"], "--output must be a folder, or a name that ends in .bpg"),
    ],
)
def test_bad_arguments(arguments, message, encode, image, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, out, err = encode(image, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert not list(tmp_path.glob("*.bpg"))


def test_an_importance_network_replaces_the_detector(encode, image, tmp_path):
    torch.manual_seed(0)
    network = ImportanceNetwork()
    with torch.no_grad():
        network.head.weight.mul_(2000)
    save_importance(network.eval(), tmp_path / "m.safetensors")
    assert encode(image, *FAST, "--importance-model", tmp_path / "m.safetensors")[0] == 0
    pixels = read_image(image)
    offsets = qp_offsets(network.importance(pixels.float() / 255), alpha=3.0)
    assert offsets.abs().sum() > 0
    expected = BPGCodec(40, preset="ultrafast").encode(pixels, offsets)
    assert image.with_name("photo.bpg").read_bytes() == expected
    model = ("--importance-model", tmp_path / "m.safetensors")
    wanted = "--importance-model must be given with --for TASK or --predict-importance and --codec bpg"
    for options, message in (
        (("--codec", "jpeg", *model), wanted),
        (("--no-importance", *model), wanted),
        (("--codec", "jpeg", "--alpha", "0"), "--alpha must be given with --for TASK"),
        (
            ("--for", "detection", *model),
            "--for must be given with --at-reader, since bpg gets no QP offsets",
        ),
    ):
        quality = () if "jpeg" in options else FAST
        status, _, err = encode(image, *quality, *options, "--overwrite")
        assert status == 2
        assert message in err
    status, _, err = encode(image, *FAST, "--importance-model", tmp_path / "none.safetensors", "--overwrite")
    assert status == 2
    assert "none.safetensors cannot be read as a model" in err


def test_a_bad_image_is_skipped(encode, image, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    status, out, err = encode(tmp_path, *FAST, "-o", tmp_path / "out")
    assert status == 1
    assert "bad.png" in err
    assert out.startswith("1 file, ")
    assert encode(tmp_path / "nothing.jpg")[0] == 2


def test_tasks_that_compose_others_need_what_they_need():
    for name in ("fine_tuned", "../task/fcos"):
        with pytest.raises(ArgumentError, match="name must be one of"):
            load_task(name)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((300, 400), (75, 100)), ((400, 300), (100, 75)), ((80, 60), (80, 60)), ((1, 1), (1, 1)),
        ((1, 900), (1, 100)),
    ],
)  # fmt: skip
def test_scaling_to_a_longest_side(size, expected):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    scaled = scale_to_side(image, 100)
    assert tuple(scaled.shape[1:]) == expected
    assert scaled.dtype == torch.uint8
    if size == expected:
        assert torch.equal(scaled, image)
    else:
        assert torch.equal(scaled[:, 0, 0], image[:, 0, 0])  # corner pixels keep their place


def test_preprocess_scales_then_filters(encode, image, detector, tmp_path):
    torch.manual_seed(0)
    network = NPP((3, 4, 4, 5))
    torch.nn.init.normal_(network.head[-1].weight, std=0.3)
    model = tmp_path / "npp.safetensors"
    save_preprocessor(network, model, pairs=json.dumps({}))
    pixels = read_image(image)

    def preprocess(*options):
        target = tmp_path / "out.png"
        status, _, err = encode(image, *options, "-o", target, "--overwrite", command="preprocess")
        assert (status, err) == (0, "")
        return read_image(target)

    at_reader = scale_to_reader(pixels, detector)
    assert torch.equal(preprocess("--model", "none", "--size", 416), at_reader)
    assert torch.equal(preprocess("--model", "none", "--for", "detection"), at_reader)
    assert torch.equal(preprocess("--model", "none", "--size", 100_000), pixels)
    with torch.no_grad():
        filtered = load_preprocessor(model)(scale_to_side(pixels, 128)[None].float() / 255, None)[0]
    found = preprocess("--model", model, "--size", 128)
    assert torch.equal(found, (filtered * 255).round().to(torch.uint8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "0"], "--size must be a longest side in pixels, from 1; got 0"),
        (["--size", "9", "--for", "detection"], "--size must be given without --for"),
        (["--for", "yolo"], "--for must be one of detection"),
        (["--model", "none"], "--model must be a model's file, or none with --size or --for"),
        (["--model", "none", "--size", "9", "--lmbda", "1"], "--lmbda must be given with a model"),
    ],
)
def test_bad_sizes(arguments, message, encode, image, tmp_path):
    status, _, err = encode(image, *arguments, "-o", tmp_path / "out", command="preprocess")
    assert status == 2
    assert message in err
    assert not (tmp_path / "out").exists()


def test_effort_writes_what_the_search_finds(encode, image, detector, tmp_path):
    pixels = scale_to_reader(read_image(image), detector)
    codec = BPGCodec(40, preset="ultrafast")
    offsets = qp_offsets(detector.importance(pixels.float() / 255))
    filtered = NPPPreprocessor(shipped(QA_NPP_BPG), codec="bpg", quality=40)(pixels)
    cases = {
        (): (pixels, offsets),
        ("--no-importance",): (pixels, None),
        ("--npp",): (filtered, offsets),
    }
    for number, (options, (start, qps)) in enumerate(cases.items()):
        found = ImageSearch(2).run(pixels, start, codec, detector, offsets=qps).image
        target = tmp_path / f"{number}.bpg"
        reader = ("--for", "detection", "--at-reader", "--effort", 2)
        status, _, err = encode(image, *FAST, *reader, "-o", target, *options)
        assert (status, err) == (0, ""), options
        assert target.read_bytes() == codec.encode(found, qps), options


def test_npp_takes_its_rate_from_the_quality_or_as_given(encode, image, tmp_path):
    pixels = read_image(image)
    codec = BPGCodec(40, preset="ultrafast")
    for number, (options, rate) in enumerate({(): None, ("--lmbda", 4): 4.0}.items()):
        target = tmp_path / f"{number}.bpg"
        assert encode(image, *FAST, "--npp", *options, "-o", target)[0] == 0
        filtered = NPPPreprocessor(shipped(QA_NPP_BPG), lmbda=rate, codec="bpg", quality=40)(pixels)
        assert target.read_bytes() == codec.encode(filtered)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--effort", 3], "--effort must be 0 without --for TASK"),
        (["--effort", -1, "--for", "detection"], "effort must be a whole number from 0 to 10000; got -1"),
        (
            ["--effort", 3, "--for", "detection", "--codec", "jpeg"],
            "effort must be 0, because the search supports only BPGCodec",
        ),
        (["--lmbda", 3], "--lmbda must be given with --npp"),
        (["--model", "m.safetensors"], "--model must be given with --npp"),
        (
            ["--npp", "--codec", "jpeg"],
            "--lmbda must be set, because qa_npp_bpg_detection.safetensors",
        ),
        (["--for", "detection", "--codec", "jpeg"], "--for must be given with --at-reader, since jpeg"),
        (["--for", "detection", "--no-importance"], "--for must be given with --at-reader, since bpg"),
        (["--no-importance"], "--no-importance must be given with --for TASK"),
        (["--for", "fine_tuned"], "--for must be one of detection, classification"),
    ],
)
def test_an_effort_that_cannot_be_made(encode, image, options, message):
    status, _, err = encode(image, *options)
    assert status == 2
    assert message in err
    assert list(image.parent.iterdir()) == [image]


def test_preprocess_effort(encode, image, detector, tmp_path):
    pixels = scale_to_reader(read_image(image), detector)
    codec = BPGCodec(40)
    filtered = NPPPreprocessor(shipped(QA_NPP_BPG), codec="bpg", quality=40)(pixels)
    options = ("--for", "detection", "--quality", 40, "--effort", 2)
    for number, (model, start) in enumerate({(): filtered, ("--model", "none"): pixels}.items()):
        target = tmp_path / f"{number}.png"
        status, _, err = encode(image, *options, *model, "-o", target, command="preprocess")
        assert (status, err) == (0, "")
        expected = ImageSearch(2).run(pixels, start, codec, detector).image
        assert torch.equal(read_image(target), expected)
        assert not torch.equal(expected, start)
    status, out, _ = encode(image, *options, "-o", tmp_path / "0.png", command="preprocess")
    assert status == 0
    assert "already" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--effort", 2, "--quality", 40], "--effort must be 0 without --for TASK"),
        (["--effort", 2, "--for", "detection"], "--effort must be 0 without --quality QP"),
        (["--effort", -2, "--for", "detection", "--quality", 40], "effort must be a whole number from 0"),
        (["--lmbda", 2, "--quality", 40], "--lmbda must be given without --quality"),
        (["--quality", 52], "quality must be"),
        (["--quality", 30, "--size", 20, "--model", "none"], "--quality must be given with a model"),
    ],
)
def test_a_preprocess_effort_that_cannot_be_made(encode, image, options, message):
    status, _, err = encode(image, *options, command="preprocess")
    assert status == 2
    assert message in err
    assert list(image.parent.iterdir()) == [image]


def test_effort_does_not_depend_on_the_number_of_threads(encode, image, tmp_path):
    for threads in (1, 2):
        torch.set_num_threads(threads)
        target = tmp_path / f"{threads}.bpg"
        assert encode(image, *FAST, "--for", "detection", "--at-reader", "--effort", 3, "-o", target)[0] == 0
    assert (tmp_path / "1.bpg").read_bytes() == (tmp_path / "2.bpg").read_bytes()


def test_a_stream_that_is_there_may_be_of_another_effort(encode, image, tmp_path):
    options = (image, "--for", "viewing", "-o", tmp_path / "out.vcm")
    assert encode(*options, command="compress")[0] == 0
    status, out, _ = encode(*options, command="compress")
    assert status == 0
    assert "1 already done" in out
    status, _, err = encode(*options, "--effort", 1, command="compress")
    assert status == 1
    assert "exists already. Use --overwrite to replace it" in err
    assert encode(*options, "--effort", 1, "--overwrite", command="compress")[0] == 0
