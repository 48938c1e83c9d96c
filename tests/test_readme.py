"""The README's figures are those that the benchmarks printed."""

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_table_of_standard_codecs_is_what_the_benchmark_prints(capsys):
    script = runpy.run_path(str(ROOT / "benchmarks/standard_codecs.py"))
    results = json.loads((ROOT / "benchmarks/results/standard_codecs.json").read_text())
    script["print_table"](results["bd_rate"])
    readme = (ROOT / "README.md").read_text()
    assert capsys.readouterr().out.strip() in readme
    assert "](docs/standard_codecs.svg)" in readme
    measured = {
        (point["system"], point["quality"]) for points in results["points"].values() for point in points
    }
    assert measured == {(codec, q) for codec, values in script["QUALITIES"].items() for q in values}


def test_the_ratios_of_the_pool_are_those_it_printed():
    lines = (ROOT / "benchmarks/results/codec_in_loop.txt").read_text().splitlines()
    rows = [line.split() for line in lines if line.strip()[:3] in ("256", "512")]
    ratios = {(size, preset, threads): ratio for size, preset, threads, _, _, ratio, *_ in rows}
    readme = (ROOT / "README.md").read_text()
    for size in ("256", "512"):
        for preset in ("medium", "veryslow"):
            one, two = (ratios[size, preset, threads] for threads in "12")
            assert f"| {size} × {size}, {preset} | {one} | {two} |" in readme
