"""Encoder-side search of an image's pixels before BPG."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F

from thin import thin_yolov3
from vcm.codecs import BPGCodec, CodecPool, JPEGCodec, qp_offsets
from vcm.data import read_image
from vcm.encoding import refinement as module
from vcm.encoding.encoder import ImageEncoder
from vcm.encoding.reader import Importance, scale_to_reader
from vcm.encoding.search import ImageSearch
from vcm.errors import ArgumentError, WeightsError
from vcm.evaluation.pipelines import Answer, ImagePipeline
from vcm.nn.proxy.transform import quantization_steps
from vcm.tasks import ClassificationTask, YOLOTask
from vcm.tasks.distance import image_distance


@pytest.fixture(scope="module")
def yolo(tmp_path_factory):
    cfg = thin_yolov3(tmp_path_factory.mktemp("yolo"))
    torch.manual_seed(2)
    return YOLOTask(cfg, None, input_size=96, score_threshold=0.0, max_detections=5)


@pytest.fixture(scope="module")
def image():
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, 12, 15, generator=generator)
    smooth = F.interpolate(noise, size=(72, 90), mode="bilinear")[0]
    return (255 * (0.7 * smooth + 0.3 * torch.rand(3, 72, 90, generator=generator))).to(torch.uint8)


def cost(task, codec, original, pixels, offsets=None):
    """Bits, and D of what is decoded, in float32."""
    data = codec.encode(pixels, offsets)
    with torch.no_grad():
        distance = image_distance(task)(original[None].float() / 255)
        return 8 * len(data), float(distance(codec.decode(data)[None].float() / 255))


def photo(coco_images, reader):
    return scale_to_reader(read_image(coco_images[0]), reader)


@pytest.mark.parametrize("maps", [False, True])
@pytest.mark.parametrize("chroma", ["420", "444"])
def test_a_detector_is_served_better_at_about_the_same_bits(asset_path, coco_images, chroma, maps):
    name = "yolov3-tiny"
    detector = YOLOTask(asset_path(name, f"{name}.cfg"), asset_path(name, f"{name}.weights"))
    original = photo(coco_images, detector)
    offsets = qp_offsets(detector.importance(original.float() / 255)) if maps else None
    codec = BPGCodec(40, chroma=chroma)
    found = ImageSearch(10).run(original, original, codec, detector, offsets=offsets).image
    assert found.shape == original.shape
    assert found.dtype == torch.uint8
    bits, distance = cost(detector, codec, original, found, offsets)
    plain_bits, plain_distance = cost(detector, codec, original, original, offsets)
    assert distance < 0.75 * plain_distance
    assert bits < 1.1 * plain_bits


def test_the_objective_falls_for_any_network(yolo, image):
    codec = BPGCodec(40)
    bits, distance = cost(yolo, codec, image, ImageSearch(5).run(image, image, codec, yolo).image)
    plain_bits, plain_distance = cost(yolo, codec, image, image)
    assert bits / plain_bits + distance / plain_distance < 2


def test_effort_0_gives_the_start(yolo, image):
    start = image.flip(-1)
    assert torch.equal(ImageSearch(0).run(image, start, BPGCodec(40), yolo).image, start)


def test_the_same_every_time_and_from_two_threads(yolo, image):
    first = ImageSearch(4).run(image, image, BPGCodec(40), yolo).image
    assert torch.equal(ImageSearch(4).run(image, image, BPGCodec(40), yolo).image, first)
    with CodecPool(workers=2) as pool:
        found = pool.map(lambda x: ImageSearch(4).run(x, x, BPGCodec(40), yolo).image, [image, image])
    assert all(torch.equal(pixels, first) for pixels in found)


@pytest.mark.parametrize("rate", [0.5, 3.0])
def test_never_worse_than_no_search(yolo, image, monkeypatch, rate):
    # Steps so large that every iterate is noise.
    monkeypatch.setattr(module, "_learning_rate", lambda effort: rate)
    found = ImageSearch(3).run(image, image, BPGCodec(40), yolo).image
    assert torch.equal(found, image)


def test_a_step_that_is_not_finite_ends_it_with_the_best_so_far(yolo, image, monkeypatch):
    seen, real = [], module.transform_bits

    def breaks(v, steps):
        seen.append(1)
        return real(v, steps) * (1 if len(seen) < 4 else float("nan"))

    expected = []
    monkeypatch.setattr(module, "transform_bits", breaks)
    found = ImageSearch(12).run(image, image, BPGCodec(40), yolo, on_step=lambda *n: expected.append(n)).image
    assert expected == [(1, 12), (2, 12), (3, 12)]
    assert not torch.equal(found, image)
    assert cost(yolo, BPGCodec(40), image, found)[1] < cost(yolo, BPGCodec(40), image, image)[1]


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (33, 7)])
def test_odd_sizes(yolo, size):
    pixels = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    found = ImageSearch(2).run(pixels, pixels, BPGCodec(30), yolo).image
    assert found.shape == pixels.shape


def test_an_image_that_loses_nothing_stays(yolo):
    grey = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    assert torch.equal(ImageSearch(3).run(grey, grey, BPGCodec(10), yolo).image, grey)


def test_a_classifier_is_served_too(image):
    torch.manual_seed(2)
    task = ClassificationTask("resnet50", None, crop_size=64, resize_size=64)
    codec = BPGCodec(40)
    found = ImageSearch(6).run(image, image, codec, task).image
    assert cost(task, codec, image, found)[1] < cost(task, codec, image, image)[1]


def test_where_the_task_is_cut_does_not_matter(yolo, image):
    later = copy.copy(yolo)
    later.cut = "layer1"
    first = ImageSearch(2).run(image, image, BPGCodec(40), yolo).image
    assert torch.equal(ImageSearch(2).run(image, image, BPGCodec(40), later).image, first)


def test_only_the_cpu_time_between_steps_depends_on_the_preset(yolo, image, monkeypatch):
    presets = []
    real = BPGCodec.encode

    def noted(self, *arguments, **options):
        presets.append(self.preset)
        return real(self, *arguments, **options)

    monkeypatch.setattr(BPGCodec, "encode", noted)
    ImageSearch(2).run(image, image, BPGCodec(40), yolo)
    assert presets[:3] == ["medium"] * 3
    assert set(presets[3:]) == {"veryslow"}
    presets.clear()
    ImageSearch(2).run(image, image, BPGCodec(40, preset="ultrafast"), yolo)
    assert set(presets) == {"ultrafast"}


class TestCache:
    def test_another_reader_of_the_same_search_does_not_repeat_it(self, yolo, image, tmp_path, monkeypatch):
        search = ImageSearch(2, cache=tmp_path / "kept")
        first = search.run(image, image, BPGCodec(40), yolo)
        assert first.cached_s == 0
        again = ImageSearch(2, task=yolo, cache=str(tmp_path / "kept"))
        monkeypatch.setattr(module.Refinement, "run", None)
        found = again.run(image, image, BPGCodec(40), ClassificationTask("resnet50", None))
        assert torch.equal(found.image, first.image)
        assert 0 < found.cached_s < 60

    @pytest.mark.parametrize("change", ["effort", "weight", "feature_share", "quality", "offsets", "start"])
    def test_another_search_does_not_take_it(self, yolo, image, tmp_path, change):
        search = ImageSearch(1, cache=tmp_path)
        search.run(image, image, BPGCodec(40), yolo)
        codec = BPGCodec(41 if change == "quality" else 40)
        values = {"effort": 2, "weight": 1.5, "feature_share": 0.5}
        if change in values:
            search = dataclasses.replace(search, **{change: values[change]})
        start = image.flip(-1) if change == "start" else image
        offsets = torch.ones(3, 3, dtype=torch.int64) if change == "offsets" else None
        assert search.run(image, start, codec, yolo, offsets=offsets).cached_s == 0
        assert len(list(tmp_path.iterdir())) == 2

    def test_a_damaged_file_is_named(self, yolo, image, tmp_path):
        search = ImageSearch(1, cache=tmp_path)
        search.run(image, image, BPGCodec(40), yolo)
        (path,) = tmp_path.iterdir()
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(WeightsError, match=f"{path.name}.*Delete it"):
            search.run(image, image, BPGCodec(40), yolo)


def test_quantization_steps_follow_the_qps_of_blocks():
    offsets = torch.tensor([[6, 0], [-6, 60]])
    steps = quantization_steps(22, offsets, 16, (32, 25), torch.device("cpu"))
    assert steps.shape == (4, 4)
    assert steps[0, 0] == pytest.approx(16)
    assert steps[0, 2] == pytest.approx(8)
    assert steps[3, 1] == pytest.approx(4)
    assert steps[3, 3] == pytest.approx(2 ** (47 / 6))


def test_a_system_sends_what_the_search_found_and_counts_its_seconds(yolo, image):
    search, importance = ImageSearch(3), Importance(alpha=1.0)
    codec = BPGCodec(40)
    options = {"at_reader": True, "importance": importance}
    plain = ImagePipeline("bpg", codec, yolo, **options)
    system = ImagePipeline("bpg_importance_at_reader_effort3", codec, yolo, search=search, **options)
    assert system.title == "BPG at the reader's size, importance QP, effort 3"
    with CodecPool(workers=1) as pool:
        (first,), (found,) = plain.run([image], pool), system.run([image], pool)
    assert isinstance(found, Answer)
    assert found.image.shape == image.shape
    assert found.encode_s > first.encode_s
    encoder = ImageEncoder(codec, yolo, search=search, **options)
    assert len(encoder.encode(image)) == found.num_bytes != first.num_bytes
    assert system.settings()["search"] == search.settings()
    assert "search" not in plain.settings()
    assert system.at(41).encoder.search is search


def test_a_search_starts_from_what_the_preprocessor_gives(yolo, image):
    class Mirror:
        def __call__(self, x):
            return x.flip(-1)

        def settings(self):
            return {}

    encoder = ImageEncoder(BPGCodec(40), yolo, preprocessor=Mirror(), search=ImageSearch(1))
    expected = ImageSearch(1).run(image, image.flip(-1), BPGCodec(40), yolo).image
    assert torch.equal(encoder.prepare(image).image, expected)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("effort", value) for value in (-1, 1.5, True, "3", 10_001)),
        *(("weight", value) for value in (0, -1, float("nan"), float("inf"), "1")),
        *(("feature_share", value) for value in (-0.1, float("inf"), None)),
        ("task", "yolo"),
        ("cache", 3),
    ],
)
def test_bad_settings(name, value):
    with pytest.raises(ArgumentError, match=name):
        ImageSearch(**{"effort": 1, name: value})


@pytest.mark.parametrize("codec", [JPEGCodec(50), BPGCodec(chroma="444", lossless=True)])
def test_other_codecs_are_refused(yolo, image, codec):
    with pytest.raises(ArgumentError, match="effort must be 0, because the search supports only BPGCodec"):
        ImageSearch(1).run(image, image, codec, yolo)
    with pytest.raises(ArgumentError, match="effort"):
        ImagePipeline("x", codec, yolo, search=ImageSearch(1))


@pytest.mark.parametrize("colour", [(29, 147, 147), (193, 9, 185), (38, 232, 244), (65, 231, 169)])
def test_one_pixel_that_the_codec_may_keep_exactly(yolo, colour):
    pixel = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    for qp in (4, 8, 12):
        assert ImageSearch(1).run(pixel, pixel, BPGCodec(qp), yolo).image.shape == pixel.shape


def test_a_start_without_error_by_the_codec_itself_stays(yolo, image, monkeypatch):
    # By the faster preset it had one: what the steps found is not compared with nothing.
    real = module.image_distance

    def measured(task, share):
        def of(x):
            distance = real(task, share)(x)
            return lambda decoded: distance(decoded) * float(torch.is_grad_enabled())

        return of

    monkeypatch.setattr(module, "image_distance", measured)
    assert torch.equal(ImageSearch(2).run(image, image, BPGCodec(40), yolo).image, image)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"offsets": torch.zeros(1, 1, dtype=torch.int64)}, "offsets"),
        ({"offsets": torch.zeros(3, 3)}, "offsets"),
        ({"offsets": torch.full((3, 3), 60)}, "offsets"),
        ({"offsets": torch.zeros(3, 3, dtype=torch.int64), "block": 20}, "block"),
        ({"start": torch.zeros(3, 72, 91, dtype=torch.uint8)}, "start"),
    ],
)
def test_what_does_not_go_with_the_image_is_refused(yolo, image, options, argument):
    start = options.pop("start", image)
    with pytest.raises(ArgumentError, match=f"^{argument} must be"):
        ImageSearch(1).run(image, start, BPGCodec(40), yolo, **options)


def test_offsets_may_be_an_array(yolo, image):
    offsets = torch.tensor([[3, -4, 0], [0, 2, -1], [1, 0, 5]])
    found = ImageSearch(1).run(image, image, BPGCodec(40), yolo, offsets=offsets.numpy()).image
    assert torch.equal(ImageSearch(1).run(image, image, BPGCodec(40), yolo, offsets=offsets).image, found)


def test_a_very_large_image_is_refused(yolo):
    large = torch.zeros(3, 4097, 4096, dtype=torch.uint8)
    with pytest.raises(ArgumentError, match="effort must be 0 for an image of more than 16,777,216 pixels"):
        ImageSearch(1).run(large, large, BPGCodec(40), yolo)


def test_a_cache_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match=r"search\.cache must be a folder"):
        ImageSearch(1, cache=tmp_path / "file")


def test_a_search_without_a_task_is_refused():
    for options in ({"search": ImageSearch(1)}, {"at_reader": True}, {"importance": Importance()}):
        with pytest.raises(ArgumentError, match="task"):
            ImageEncoder(BPGCodec(40), **options)
