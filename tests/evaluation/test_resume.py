"""Evaluations that go on: by content, wherever it lies; settings that matter are named."""

from vcm.codecs import CodecPool, JPEGCodec
from vcm.data import COCODataset


def test_the_same_images_elsewhere_and_other_workers_go_on(build, world, tmp_path):
    first = build(codecs={"jpeg": [JPEGCodec(quality=80)]})
    results = first.run()
    for name in ("images", "instances.json"):
        (tmp_path / "moved").mkdir(exist_ok=True)
        (tmp_path / name).rename(tmp_path / "moved" / name)
    moved = COCODataset(tmp_path / "moved/images", tmp_path / "moved/instances.json", unlabelled="keep")
    with CodecPool(workers=2) as pool:
        again = build(codecs={"jpeg": [JPEGCodec(quality=80)]}, dataset=moved, pool=pool)
        assert again.run() == results
    assert again.task.predictions == 0
    assert again.changed == []


def test_settings_that_matter_are_named(build, world):
    build(codecs={"jpeg": [JPEGCodec(quality=80)]}).run()
    fewer = build(codecs={"jpeg": [JPEGCodec(quality=80)]}, dataset=world.dataset(limit=4))
    fewer.run()
    assert fewer.task.predictions == 2 * 4
    assert "data.num_images changed (10 -> 4)" in fewer.changed
    assert all(line.startswith("data.") for line in fewer.changed)


def test_records_of_the_first_version_are_used(build, monkeypatch):
    from vcm import provenance

    build(codecs={"jpeg": [JPEGCodec(quality=80)]}).run()
    real = provenance.version
    monkeypatch.setattr(provenance, "version", lambda name: "9.9" if name == "vcm" else real(name))
    again = build(codecs={"jpeg": [JPEGCodec(quality=80)]})
    again.run()
    assert again.task.predictions == 0


def test_another_version_of_a_deciding_package_makes_records_stale(build, monkeypatch):
    from vcm import provenance

    build(codecs={"jpeg": [JPEGCodec(quality=80)]}).run()
    real = provenance.version
    monkeypatch.setattr(provenance, "version", lambda name: "99" if name == "torch" else real(name))
    again = build(codecs={"jpeg": [JPEGCodec(quality=80)]})
    again.run()
    assert again.task.predictions == 2 * 10
    assert again.changed == [f"versions.torch changed ({real('torch')} -> 99)"]
