"""Run folders with links and odd files where an evaluation writes: nothing is written through them."""

import os

import pytest

from vcm.codecs import JPEGCodec
from vcm.errors import EvaluationError
from vcm.evaluation.records import Record, RecordFile
from vcm.evaluation.results import write_text

CODECS = {"jpeg": [JPEGCodec(quality=50)]}


@pytest.fixture
def victim(tmp_path):
    (tmp_path / "victim").write_text("precious")
    return tmp_path / "victim"


@pytest.mark.parametrize("suffix", [".jsonl", ".timings.jsonl"])
def test_records_that_are_links_are_refused(tmp_path, victim, suffix):
    settings = {"codec": "x"}
    file = RecordFile(tmp_path / "records", "a", settings)
    path = tmp_path / "records" / f"{file.stem}{suffix}"
    path.unlink(missing_ok=True)
    path.symlink_to(victim)
    with pytest.raises(EvaluationError, match=r"it is a link; remove it"):
        RecordFile(tmp_path / "records", "a", settings)
    with pytest.raises(EvaluationError, match=r"it is a link; remove it"):
        file.append([Record("1")], [{"image_id": "1", "encode_s": 1.0}])
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("suffix", [".jsonl", ".timings.jsonl"])
def test_records_that_are_fifos_are_refused(tmp_path, suffix):
    file = RecordFile(tmp_path / "records", "a", {})
    path = tmp_path / "records" / f"{file.stem}{suffix}"
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    with pytest.raises(EvaluationError, match=r"not a regular file; remove it"):
        RecordFile(tmp_path / "records", "a", {})
    if suffix != ".jsonl":
        with pytest.raises(EvaluationError, match=r"not a regular file; remove it"):
            file.timings()


def test_sparse_records_are_cut_without_being_held_in_memory(tmp_path):
    file = RecordFile(tmp_path / "records", "a", {})
    file.append([Record("1", error="x")], [])
    whole = file.path.stat().st_size
    os.truncate(file.path, 20 << 30)
    assert list(RecordFile(tmp_path / "records", "a", {}).records) == ["1"]
    assert file.path.stat().st_size == whole


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 200_000, b'{"image_id": 3}', b'{"image_id": "2", "num_bytes": "x"}',
        b'{"image_id": "2", "psnr": []}',
        b'{"image_id": "2", "height": 1e400}', b'{"image_id": "2", "prediction": {"boxes": 3}}',
        b'{"image_id": "2", "prediction": {"logits": [[1]]}}', b'{"image_id": "2", "width": %d}' % 10**400,
    ],
)  # fmt: skip
def test_lines_that_are_no_records_are_cut(tmp_path, line):
    file = RecordFile(tmp_path / "records", "a", {})
    file.append([Record("1", error="x")], [])
    with file.path.open("ab") as records:
        records.write(line + b"\n")
    assert list(RecordFile(tmp_path / "records", "a", {}).records) == ["1"]


@pytest.mark.parametrize("name", ["records", "examples"])
def test_folders_that_lead_out_of_the_run_are_refused(build, tmp_path, name):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EvaluationError, match="leads outside of"):
        build(codecs=CODECS).run()
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_lock_that_is_a_link_is_refused(build, tmp_path, victim):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.lock").symlink_to(victim)
    with pytest.raises(EvaluationError, match="it is a link; remove it"):
        build(codecs=CODECS).run()
    assert victim.read_text() == "precious"


def test_links_at_outputs_and_old_temporary_names_are_not_followed(build, tmp_path, victim):
    (tmp_path / "run/examples").mkdir(parents=True)
    names = [
        f"{stem}.{suffix}"
        for stem in ("results", "provenance", "bootstrap", "timings", "examples/examples")
        for suffix in ("tmp", "json", "csv")
    ]
    for name in names:
        (tmp_path / "run" / name).symlink_to(victim)
    build(codecs=CODECS).run()
    assert victim.read_text() == "precious"
    for name in ("results.json", "results.csv", "provenance.json", "timings.csv", "examples/examples.json"):
        assert (tmp_path / "run" / name).is_file()
        assert not (tmp_path / "run" / name).is_symlink()


def test_an_example_that_is_a_link_is_replaced(build, tmp_path, victim):
    build(codecs=CODECS, examples=1).run()
    (image,) = (tmp_path / "run/examples").glob("*/jpeg-50*.png")
    image.unlink()
    image.with_suffix(".tmp").symlink_to(victim)
    image.symlink_to(tmp_path / "gone")
    build(codecs=CODECS, examples=1).run()
    assert victim.read_text() == "precious"
    assert not (tmp_path / "gone").exists()
    assert image.is_file()


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    with pytest.raises(EvaluationError, match=r"x\.json cannot be written"):
        write_text(tmp_path / "gone/x.json", "text")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(EvaluationError, match=r"folder\.json cannot be written"):
        write_text(tmp_path / "folder.json", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.json"]
