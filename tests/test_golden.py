"""The models that come with vcm still do what benchmarks/results/rate_accuracy.json says."""

import json
from pathlib import Path

import pytest

from vcm.cli.main import main
from vcm.evaluation.results import Results

ROOT = Path(__file__).resolve().parent.parent
RATE, ACCURACY = 0.005, 0.02
"""Largest differences: of rates, relative; of accuracies, of 1."""
POINTS = {
    **{"bpg": [40], "npp_bpg": [40], "bpg_importance_network_at_reader": [40]},
    **{"features": [2, 4], "learned": [2, 4]},
}


@pytest.mark.slow
@pytest.mark.parametrize("task", ["yolov3_tiny", "yolov4_tiny"])
def test_rates_and_accuracies_are_those_of_the_readme(task, tmp_path, asset_path):
    for name, file in (
        (task.replace("_", "-"), f"{task.replace('_', '-')}.weights"),
        ("coco-sample", "images"),
    ):
        asset_path(name, file)
    golden = json.loads((ROOT / "benchmarks/results/rate_accuracy.json").read_text())["points"][task]
    systems = {point["system"] for point in golden} & set(POINTS)
    arguments = [f"codecs.{name}.qualities={POINTS[name]}".replace(" ", "") for name in systems]
    arguments += ["task.cut=layer1"] if "features" in systems else []
    arguments += [f"task={task}", f"codec=[{','.join(systems)}]", f"run_dir={tmp_path}", "bootstrap=0"]
    assert main(["evaluate", *arguments]) == 0
    found = {(p.system, p.quality, p.labels): p for p in Results.read(tmp_path).points}
    compared = 0
    for point in golden:
        key = (point["system"], point["quality"], point["labels"])
        if key in found:
            assert found[key].bpp == pytest.approx(point["bpp"], rel=RATE), key
            assert found[key].accuracy["map"] == pytest.approx(point["accuracy"]["map"], abs=ACCURACY), key
            compared += 1
    assert compared == len(found) == 2 * sum(len(POINTS[name]) for name in systems)
