"""COCO's figures against pycocotools called directly."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import programs
from vcm.errors import ArgumentError
from vcm.metrics import coco
from vcm.metrics.coco import DETECTION_ACCURACIES
from vcm.metrics.detection import DetectionAccuracy
from vcm.types import BoxTarget, Detections

CATEGORIES = 5


def random_image(generator: torch.Generator, objects: int, extra: int) -> tuple[Detections, BoxTarget]:
    """Predictions near true boxes, and elsewhere, in quarters of a pixel: so widths are exact in float32."""

    def quarters(low: float, high: float, *shape: int) -> torch.Tensor:
        values = low + (high - low) * torch.rand(*shape, generator=generator)
        return (values * 4).round() / 4

    corners = quarters(0, 300, objects, 2)
    boxes = torch.cat((corners, corners + quarters(4, 200, objects, 2)), dim=1)
    labels = torch.randint(CATEGORIES - 1, (objects,), generator=generator)  # the last has no true box
    sides = boxes[:, 2:] - boxes[:, :2]
    target = BoxTarget(
        boxes,
        labels,
        torch.rand(objects, generator=generator) < 0.15,
        (sides.prod(dim=1) * quarters(0.25, 1, objects)).round(),
    )
    near = boxes + quarters(-1, 1, objects, 4) * sides.repeat(1, 2).div(16).round()
    corners = quarters(0, 300, extra, 2)
    elsewhere = torch.cat((corners, corners + quarters(4, 200, extra, 2)), dim=1)
    found = torch.cat((near, near.round(), elsewhere))
    found_labels = torch.cat((labels, labels, torch.randint(CATEGORIES, (extra,), generator=generator)))
    scores = torch.rand(len(found), generator=generator)
    order = scores.argsort(descending=True)
    return Detections(found[order], scores[order], found_labels[order]), target


def images(seed: int, count: int = 40) -> list[tuple[Detections, BoxTarget]]:
    generator = torch.Generator().manual_seed(seed)
    drawn = [random_image(generator, objects=i % 7, extra=(i * 5) % 11) for i in range(count)]
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    many = random_image(generator, objects=30, extra=90)  # more than COCO's 100
    return [*drawn, (empty, drawn[6][1]), many]


def reference(data: list[tuple[Detections, BoxTarget]], folder: Path) -> dict[str, float]:
    """Files in COCO's formats, through pycocotools' own loaders."""
    annotations, results = [], []
    for image, (found, true) in enumerate(data, start=1):
        for box, label, crowd, area in zip(
            true.boxes.tolist(), true.labels.tolist(), true.is_crowd.tolist(), true.area.tolist(), strict=True
        ):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label + 1,
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "iscrowd": int(crowd),
                    "area": area,
                }
            )
        for box, label, score in zip(
            found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True
        ):
            results.append(
                {
                    "image_id": image,
                    "category_id": label + 1,
                    "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
                    "score": score,
                }
            )
    instances = {
        "info": {},
        "images": [{"id": image} for image in range(1, len(data) + 1)],
        "annotations": annotations,
        "categories": [{"id": c + 1, "name": str(c)} for c in range(CATEGORIES)],
    }
    (folder / "instances.json").write_text(json.dumps(instances))
    (folder / "results.json").write_text(json.dumps(results))
    truth = COCO(str(folder / "instances.json"))
    evaluation = COCOeval(truth, truth.loadRes(str(folder / "results.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(DETECTION_ACCURACIES, evaluation.stats.tolist(), strict=True))


def measure(data: list[tuple[Detections, BoxTarget]], batch: int = 7) -> dict[str, float]:
    metric = DetectionAccuracy()
    for start in range(0, len(data), batch):
        found, true = zip(*data[start : start + batch], strict=True)
        metric.update(found, true)
    return {name: value.item() for name, value in metric.compute().items()}


@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools(seed: int, tmp_path: Path) -> None:
    data = images(seed)
    expected = reference(data, tmp_path)
    assert 0.1 < expected["map"] < 0.9
    assert len(set(expected.values())) == 12
    assert measure(data) == pytest.approx(expected, rel=0, abs=1e-6)


def test_resamples_equal_pycocotools_on_copies_of_the_images(tmp_path: Path) -> None:
    data = images(3, 25)
    metric = DetectionAccuracy()
    metric.update(*zip(*data, strict=True))
    draws = np.random.default_rng(0).integers(0, len(data), (6, len(data)))
    draws[5] = 0  # an image without true boxes, again and again
    found = metric.resampled(draws)
    for number, draw in enumerate(draws[:5]):
        expected = reference([data[index] for index in draw], tmp_path)
        assert {name: values[number] for name, values in found.items()} == pytest.approx(expected, abs=1e-6)
    assert all(np.isnan(values[5]) for values in found.values())


def test_resamples_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    data = images(4, 12)
    metric = DetectionAccuracy()
    metric.update(*zip(*data, strict=True))
    draws = np.random.default_rng(0).integers(0, len(data), (7, len(data)))
    whole = metric.resampled(draws)
    monkeypatch.setattr(coco, "_CHUNK", 100)
    for name, values in metric.resampled(draws).items():
        np.testing.assert_array_equal(values, whole[name])


def test_says_nothing_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    measure(images(0))
    assert capfd.readouterr() == ("", "")


def test_crowds_and_areas_count() -> None:
    """A box that is small by its mask's area; a crowd region that swallows a wrong detection."""
    found = Detections(
        torch.tensor([[0.0, 0, 50, 50], [100, 100, 150, 150]]), torch.tensor([0.5, 0.9]), torch.tensor([0, 0])
    )
    boxes = torch.tensor([[0.0, 0, 50, 50], [90, 90, 200, 200]])
    for crowd, area, small, medium, overall in (
        (True, 0.0, 1.0, float("nan"), 1.0),
        (True, 2000.0, float("nan"), 1.0, 1.0),
        (False, 2000.0, float("nan"), 0.5, 0.252),
    ):
        areas = torch.tensor([area, 12100.0])
        target = BoxTarget(boxes, torch.tensor([0, 0]), torch.tensor([False, crowd]), areas)
        ours = measure([(found, target)])
        assert ours["map_small"] == pytest.approx(small, nan_ok=True)
        assert ours["map_medium"] == pytest.approx(medium, nan_ok=True)
        assert ours["map"] == pytest.approx(overall, abs=1e-3)


def test_undefined_figures_are_nan() -> None:
    none = BoxTarget(
        torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.bool), torch.zeros(0)
    )
    found = Detections(torch.tensor([[0.0, 0, 9, 9]]), torch.tensor([0.5]), torch.tensor([1]))
    assert all(value != value for value in measure([(found, none)]).values())
    with pytest.warns(UserWarning, match="before the ``update`` method"):
        assert all(value.isnan() for value in DetectionAccuracy().compute().values())


def test_predictions_and_targets_come_in_pairs() -> None:
    found, true = images(0)[5]
    with pytest.raises(ArgumentError, match="one per target, 2 in total; got 1"):
        DetectionAccuracy().update([found], [true, true])


def test_reset_forgets() -> None:
    metric = DetectionAccuracy()
    data = images(1, 10)
    metric.update(*zip(*images(0), strict=True))
    metric.reset()
    metric.update(*zip(*data, strict=True))
    assert metric.compute()["map"].item() == pytest.approx(measure(data)["map"])


def _process(rank: int, world: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    figures = []
    for shares in ([images(0)[:30], images(0)[30:]], [images(0), []]):  # uneven; all and none
        metric = DetectionAccuracy()
        metric.update([found for found, _ in shares[rank]], [true for _, true in shares[rank]])
        figures.append(metric.compute())
    torch.save(figures, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_processes_agree_with_one_that_saw_all(tmp_path: Path) -> None:
    code = "import os, sys, test_detection as test; test._process(int(os.environ['RANK']), 2, sys.argv[1])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for done in programs.run_together(["-c", code, tmp_path], 2, env=environment):
        assert done.returncode == 0, done.stderr
    expected = measure(images(0))
    for rank in range(2):
        for synced in torch.load(tmp_path / f"{rank}.pt", weights_only=True):
            assert {name: value.item() for name, value in synced.items()} == pytest.approx(expected)
