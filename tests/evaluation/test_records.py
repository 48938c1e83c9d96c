import json
import math
import os

import numpy as np
import pytest
import torch

from vcm.errors import EvaluationError
from vcm.evaluation.records import (
    Record,
    RecordFile,
    canonical_json,
    prediction_from_json,
    prediction_to_json,
    settings_key,
)
from vcm.types import ClassScores, Detections

SETTINGS = {
    "codec": {"name": "jpeg", "quality": 50, "chroma": "420"},
    "data": {"limit": None},
    "torch": "2.4",
}


def record(image_id, **changes):
    prediction = {"boxes": [], "labels": [], "scores": []}
    values = {
        "height": 3, "width": 5, "num_bytes": 70, "psnr": 31.25, "ms_ssim": None,
        "prediction": prediction, **changes,
    }  # fmt: skip
    return Record(image_id, **values)


@pytest.fixture
def reopen(tmp_path):
    return lambda settings=SETTINGS: RecordFile(tmp_path / "records", "jpeg-50", settings)


@pytest.fixture
def written(reopen):
    """A file of five records."""
    file = reopen()
    file.append([record(str(number), num_bytes=number) for number in range(5)], [])
    return file


@pytest.mark.parametrize(
    "other",
    [
        {**SETTINGS, "torch": "2.5"},
        {**SETTINGS, "codec": {**SETTINGS["codec"], "quality": 51}},
        {**SETTINGS, "codec": {**SETTINGS["codec"], "chroma": "444"}},
        {**SETTINGS, "data": {"limit": 0}},
        {**SETTINGS, "data": {}},
        {**SETTINGS, "new": None},
        {name: value for name, value in SETTINGS.items() if name != "torch"},
    ],
)
def test_any_other_setting_is_another_file(written, reopen, other):
    assert settings_key(other) != settings_key(SETTINGS)
    assert reopen(other).records == {}
    assert reopen(other).path != written.path
    assert len(reopen().records) == 5


def test_order_of_settings_has_no_influence(written, reopen):
    assert reopen(dict(reversed(SETTINGS.items()))).records == written.records


def float32_of_all_kinds():
    """Every exponent with random mantissas of both signs, denormals, extremes, awkward decimals."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 20000, dtype=np.uint32).view(np.float32)
    information = np.finfo(np.float32)
    chosen = [0.0, 0.1, 1 / 3, 16777217, information.max, information.tiny, information.smallest_subnormal]
    denormal = rng.integers(1, 2**23, 1000, dtype=np.uint32).view(np.float32)
    values = np.concatenate([bits[np.isfinite(bits)], denormal, np.array(chosen, np.float32)])
    return torch.from_numpy(values[: len(values) // 4 * 4])


def test_predictions_come_back_bit_for_bit_through_a_file(reopen):
    values = float32_of_all_kinds()
    count = len(values) // 4
    found = Detections(values.reshape(-1, 4), values[:count], torch.arange(count))
    said = ClassScores(values)
    reopen().append(
        [record("a", prediction=prediction_to_json(found)), record("b", prediction=prediction_to_json(said))],
        [],
    )
    again = reopen().records
    boxes = prediction_from_json(again["a"].prediction)
    for name in ("boxes", "scores", "labels"):
        before, after = getattr(found, name), getattr(boxes, name)
        assert after.dtype == before.dtype
        assert after.numpy().tobytes() == before.numpy().tobytes()
    assert prediction_from_json(again["b"].prediction).logits.numpy().tobytes() == values.numpy().tobytes()


def test_no_boxes_come_back_as_no_boxes():
    nothing = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    back = prediction_from_json(prediction_to_json(nothing))
    assert back.boxes.shape == (0, 4)
    assert back.labels.dtype == torch.int64


def test_canonical_json_is_strict_and_has_one_spelling():
    text = canonical_json({"b": math.inf, "a": [-math.inf, math.nan, (1, 2.5)], "ü": "é\n"})
    assert text == '{"a":["-inf",null,[1,2.5]],"b":"inf","\\u00fc":"\\u00e9\\n"}'
    assert json.loads(text, parse_constant=pytest.fail)["b"] == "inf"


def test_infinite_psnr_comes_back(reopen):
    reopen().append([record("a", psnr=math.inf), record("b", psnr=None)], [])
    again = reopen().records
    assert again["a"].psnr == math.inf
    assert again["b"].psnr is None


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_line_cut_short_is_dropped_and_the_file_goes_on(written, reopen, cut):
    os.truncate(written.path, written.path.stat().st_size - cut)
    again = reopen()
    assert list(again.records) == ["0", "1", "2", "3"]
    again.append([record("4", num_bytes=4)], [])
    assert reopen().records == written.records


@pytest.mark.parametrize(
    "damage",
    [b"\0" * 30, b'{"image_id": 2}x', b'{"image_id":"2","hight":3}', b"[1]", b"null", b"\xff\xfe", b""],
)
def test_nothing_behind_a_damaged_line_is_believed(written, reopen, damage):
    lines = written.path.read_bytes().split(b"\n")
    lines[3] = damage
    written.path.write_bytes(b"\n".join(lines))
    again = reopen()
    assert list(again.records) == ["0", "1"]
    again.append([record(str(number), num_bytes=number) for number in (2, 3, 4)], [])
    assert reopen().records == written.records


@pytest.mark.parametrize("header", [b"{}", b"", b"\xff", b'{"format":0}'])
def test_another_header_starts_the_file_anew(written, reopen, header):
    lines = written.path.read_bytes().split(b"\n")
    written.path.write_bytes(b"\n".join([header, *lines[1:]]))
    assert reopen().records == {}
    assert written.path.read_bytes() == lines[0] + b"\n"


def test_header_alone_or_cut_short(reopen):
    file = reopen()
    whole = file.path.read_bytes()
    assert reopen().records == {}
    os.truncate(file.path, len(whole) - 1)
    assert reopen().records == {}
    assert file.path.read_bytes() == whole


def test_later_line_about_one_image_wins(reopen):
    file = reopen()
    file.append([record("a"), Record("b", error="encode failed")], [{"image_id": "a", "encode_s": 1.0}])
    file.append(
        [record("b", num_bytes=9)], [{"image_id": "b", "encode_s": 3.0}, {"image_id": "a", "encode_s": 2.0}]
    )
    for opened in (file, reopen()):
        assert list(opened.records) == ["a", "b"]
        assert opened.records["b"] == record("b", num_bytes=9)
        assert opened.timings() == [{"encode_s": 2.0}, {"encode_s": 3.0}]


def test_timings_without_a_record_or_cut_short_do_not_count(reopen):
    file = reopen()
    assert file.timings() == []
    file.append([record("a")], [{"image_id": "a", "encode_s": 1.0}, {"image_id": "gone", "encode_s": 5.0}])
    with file.timings_path.open("a") as timings:
        timings.write('{"image_id":"a"\n{"image_id":"a","enc')
    assert reopen().timings() == [{"encode_s": 1.0}]


def test_names_are_safe_as_file_names(tmp_path):
    file = RecordFile(tmp_path, "../my codec/é-50", SETTINGS)
    assert file.path.parent == tmp_path
    assert file.path.is_file()


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "records").write_text("a file where the folder should be")
    with pytest.raises(EvaluationError, match=r"records.* cannot be written: .*use another run_dir"):
        RecordFile(tmp_path / "records", "jpeg-50", SETTINGS)


def test_failed_write_leaves_no_half_record(written, reopen, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EvaluationError, match="No space left on device"):
        written.append([record("5"), record("6")], [])
    assert list(reopen().records) == list(written.records) == ["0", "1", "2", "3", "4"]


def test_settings_that_differ_from_earlier_records_are_named_with_both_values(written, reopen):
    assert reopen().changed == []
    other = {**SETTINGS, "data": {"limit": 24}}
    assert reopen(other).changed == ["data.limit changed (None -> 24)"]
    assert reopen(other).changed == []  # it has records of its own now
    nearest = {**other, "codec": {**SETTINGS["codec"], "quality": 51}, "new": "x" * 50}
    assert reopen(nearest).changed == [
        "codec.quality changed (50 -> 51)",
        f"new changed (not set -> {'x' * 39}…)",
    ]


def test_damaged_and_foreign_headers_are_passed_over(written, reopen, tmp_path):
    for name, text in (("0" * 16, "["), ("1" * 16, "[" * 200_000), ("2" * 16, "3"), ("z", "{}")):
        (tmp_path / f"records/jpeg-50-{name}.jsonl").write_text(text + "\n")
    (tmp_path / f"records/jpeg-50-{'3' * 16}.jsonl").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / f"records/jpeg-50-{'4' * 16}.jsonl")
    assert reopen({**SETTINGS, "torch": "2.5"}).changed == ["torch changed (2.4 -> 2.5)"]
