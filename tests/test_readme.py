"""The figures of the README and the documentation are those that the benchmarks printed."""

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_the_tables_of_rates_and_accuracies_are_what_the_benchmark_prints(capsys):
    script = runpy.run_path(str(ROOT / "benchmarks/rate_accuracy.py"))
    results = json.loads((ROOT / "benchmarks/results/rate_accuracy.json").read_text())
    texts = {
        name: (ROOT / name).read_text() for name in ("README.md", "docs/results.md", "docs/benchmarks.md")
    }

    def printed(table, *arguments):
        script[table](*arguments)
        return capsys.readouterr().out.strip()

    assert printed("print_tables", results["bd_rate"], results["seconds"]) in texts["docs/results.md"]
    assert printed("print_streams", results["streams"]) in texts["docs/results.md"]
    assert printed("print_boxes", results["boxes"]) in texts["docs/benchmarks.md"].replace("\n", " ")
    assert printed("print_sensitivity", results["sensitivity"]) in texts["docs/benchmarks.md"]
    found = {(row["anchor"], row["system"], row["column"]): row["bd_rate"] for row in results["bd_rate"]}
    ablation = {
        "BPG at the reader's size": "bpg_at_reader",
        "… with QPs from predicted importance": "bpg_importance_network_at_reader",
        "… with QPs from importance": "bpg_importance_at_reader",
        "… with importance, after NPP": "npp_bpg_importance_at_reader",
        "… with importance, effort 10": "bpg_importance_at_reader_effort10",
        "BPG at the reader's size, after NPP alone": "npp_bpg_at_reader",
    }
    for title, system in ablation.items():
        readers = [f"{task}, pseudo-labels" for task in ("yolov3-tiny", "yolov4-tiny")]
        cells = [f"{found['bpg', system, column]:+.0f}" for column in readers]
        assert f"| {title} | {' | '.join(cells)} |" in texts["docs/benchmarks.md"]
    assert "](docs/rate_accuracy.svg)" in texts["README.md"]
    shown = {
        "BPG at the reader's size": "bpg_at_reader",
        "BPG at the reader's size + QPs from a predicted map": "bpg_importance_network_at_reader",
        "+ QPs from the detector's importance map": "bpg_importance_at_reader",
        "+ search of 10 steps": "bpg_importance_at_reader_effort10",
        "NPP + BPG at the reader's size": "npp_bpg_at_reader",
        "AVIF": "avif",
    }
    for title, system in shown.items():
        cells = [
            f"{found['bpg', system, f'{task}, pseudo-labels']:+.0f}"
            for task in ("yolov3-tiny", "yolov4-tiny")
        ]
        assert f"| {title} | {' | '.join(cells)} |" in texts["README.md"]
    narrow = {
        (row["stream"], row["quality"]): [
            100 * (row["bpp"] / row[anchor] - 1) for anchor in script["ANCHORS"]
        ]
        for row in results["streams"]
        if row["column"] == "yolov3-tiny, pseudo-labels" and row["bpg"] and row["bpg_at_reader"]
    }
    (first, at_reader), (last, last_at_reader) = (narrow["features", quality] for quality in (1, 5))
    said = " ".join(texts["README.md"].split())
    low = f"takes {-first:.0f} % fewer bits than BPG at quality 1 ({-at_reader:.0f} % fewer than BPG at the"
    high = f"reader's size) and {last:.0f} % more at quality 5 ({last_at_reader:.0f} %)."
    assert f"{low} {high}" in said
    assert (
        "qualities 1 to 3 take about a tenth of BPG's bits; BPG's curve does not reach qualities 4 and 5"
        in said
    )
    searched = {
        row["quality"]: row["bpg"] and row["bpp"] / row["bpg"]
        for row in results["streams"]
        if row["column"] == "yolov3-tiny, pseudo-labels" and row["stream"] == "features_effort10"
    }
    assert [quality for quality, share in searched.items() if share is None] == [4, 5]
    assert all(0.05 < share < 0.15 for share in searched.values() if share is not None)
    network = (ROOT / "src/vcm/weights/importance_yolov3_tiny.md").read_text()
    for title, system in {
        "the same QP everywhere": "bpg_at_reader",
        "QPs from this network": "bpg_importance_network_at_reader",
        "QPs from the reader's or yolov3-tiny's own map": "bpg_importance_at_reader",
    }.items():
        readers = ("yolov3-tiny", "yolov4-tiny", "mobilenet-v2")
        cells = [f"{found['bpg', system, f'{task}, pseudo-labels']:+.0f}" for task in readers]
        assert f"| {title}, against BPG at full size | {' | '.join(cells)} |" in network
    assert len(texts["README.md"].splitlines()) <= 150
    cards = {path.stem: path.read_text() for path in (ROOT / "src/vcm/weights").glob("*.md")}
    assert printed("print_streams", results["streams"]) in cards["slimmable_yolov3_tiny"]
    table = printed("print_tables", results["bd_rate"], results["seconds"]).split("\n\n")[0].splitlines()
    rows = [line for line in table if line.startswith(("| NPP", "| BPG at"))]
    assert "\n".join([*table[:2], *rows]) in cards["qa_npp_bpg_detection"]
    assert set(results["points"]) == set(script["TASKS"])
    measured = {(point["system"], point["quality"]) for point in results["points"]["yolov3_tiny"]}
    images = {*script["PLAIN"], *script["FILTERED"], *script["IMPORTANCE"], *script["SEARCHED"]}
    images |= {*script["PREDICTED"]}
    expected = {(name, q) for name in images for q in script["QPS" if "bpg" in name else "QUALITIES"]}
    expected |= {
        (name, q) for name in (*script["STREAMS"], script["FULL"]) for q in script["STREAM_QUALITIES"]
    }
    assert measured == expected
    for task in set(results["points"]) - {"yolov3_tiny"}:
        others = {point["system"] for point in results["points"][task]}
        needed = {*script["ANCHORS"], *script["PREDICTED"], *script["IMPORTANCE"], script["FULL"]}
        assert others >= needed, task
    assert {row["anchor"] for row in results["bd_rate"]} == set(script["ANCHORS"])


def test_the_ratios_of_the_pool_are_those_it_printed():
    lines = (ROOT / "benchmarks/results/codec_in_loop.txt").read_text().splitlines()
    rows = [line.split() for line in lines if line.strip()[:3] in ("256", "512")]
    ratios = {(size, preset, threads): ratio for size, preset, threads, _, _, ratio, *_ in rows}
    page = (ROOT / "docs/benchmarks.md").read_text()
    for size in ("256", "512"):
        for preset in ("medium", "veryslow"):
            one, two = (ratios[size, preset, threads] for threads in "12")
            assert f"| {size} × {size}, {preset} | {one} | {two} |" in page


def test_the_encoders_ratios_are_those_it_printed():
    found = json.loads((ROOT / "benchmarks/results/slimmable_latency.json").read_text())
    page = (ROOT / "docs/benchmarks.md").read_text()
    for height, width in ((256, 256), (512, 512), (512, 768)):
        rows = [
            row
            for threads in (1, 2)
            for row in found["encoders"]
            if row["network"] == "SlimmableHyperprior"
            and (row["threads"], *row["size"]) == (threads, height, width)
        ]
        keys = ("time_ratio", "narrow_by_compressai", "full_by_compressai")
        figures = [f"{row[key]:.2f}" for key in keys for row in rows]
        assert f"| {width} × {height} | {' | '.join(figures)} |" in page
    boxes = [row["ratio"] for row in found["to_boxes"]]
    assert f"takes {boxes[0]:.2f} / {boxes[1]:.2f} of the time" in page
    assert f"{found['entropy_coder'][0]['decode_speedup']:.2f} times as many" in page


def test_the_ratios_of_a_preprocessors_step_and_time_are_those_they_printed():
    rows = json.loads((ROOT / "benchmarks/results/npp_step.json").read_text())["rows"]
    page = " ".join((ROOT / "docs/benchmarks.md").read_text().split())
    one, two = (f"{row['ratio']:.2f}" for row in rows)
    assert f"a step takes {one} / {two} times as long" in page
    one, two = (f"{row['ratio_codec']:.2f}" for row in rows)
    assert f"The codec alone takes {one} / {two} times as long" in page
    lines = (ROOT / "benchmarks/results/npp_latency.txt").read_text().splitlines()
    found = {tuple(line.split()[:3]): line.split()[5] for line in lines if "x" in line and "-" in line}
    assert f"the shipped one takes {found['1', '512x512', '8-16-32-64']} of the time" in page
    assert f"of the paper's size {found['1', '512x512', '32-64-128-256']} times as long" in page


def test_the_ablations_figures_are_those_they_printed():
    printed = (ROOT / "benchmarks/results/npp_ablations.txt").read_text()
    page = " ".join((ROOT / "docs/benchmarks.md").read_text().split())
    table = printed[printed.index("BD-rate against BPG") :]
    figures = [
        line.split("│")[-2].strip() for line in table.splitlines() if "NPP + BPG" in line and "│" in line
    ]
    first, *others = (figure.removesuffix(" %") for figure in figures)
    assert f"are {first}, {', '.join(others[:-1])} and {others[-1]} %" in page


def test_the_efforts_figures_are_those_they_printed(capsys):
    script = runpy.run_path(str(ROOT / "benchmarks/effort.py"))
    settings = json.loads(script["RESULTS"].read_text())["settings"]
    table = script["Table"](script["RESULTS"], settings)
    table.print()
    docs = (ROOT / "docs/benchmarks.md").read_text()
    assert capsys.readouterr().out.strip() in docs
    measured = {(row["stream"], row["images"], row["effort"]) for row in table.rows}
    efforts = (0, 5, 10, 30, 100)
    assert measured == {(s, i, e) for s in script["COLUMNS"] for i in script["SETS"] for e in efforts}
    assert f"--images {settings['images']} --full-images {settings['full_images']}`" in docs
    assert "](effort.svg)" in docs
    start, end = (
        f"{row['map']:.3f}"
        for row in table.rows
        if (row["stream"], row["images"]) == ("narrow", "COCO sample") and row["effort"] in (0, 10)
    )
    page = (ROOT / "docs/tutorials/application.md").read_text()
    assert f"mAP on {settings['images']} images of COCO from {start} to {end}" in page


def test_the_training_precisions_figures_are_those_it_printed():
    printed = (ROOT / "benchmarks/results/precision.txt").read_text().strip()
    docs = (ROOT / "docs/benchmarks.md").read_text()
    assert printed in docs
    ratio = printed.partition("float32 takes ")[2].split()[0]
    assert f"A step is {ratio} times as fast" in docs


def test_the_bulk_figures_are_those_it_printed(capsys):
    script = runpy.run_path(str(ROOT / "benchmarks/bulk.py"))
    found = json.loads(script["RESULTS"].read_text())
    script["print_results"](found)
    assert capsys.readouterr().out.strip() in (ROOT / "docs/benchmarks.md").read_text()
    assert found["images"] >= 10_000
    assert found["speedup"] >= 1.7
    assert all(run["late_mb"] < 1.1 * run["early_mb"] for run in found["runs"].values())


def test_the_seconds_of_start_up_are_those_it_printed():
    found = json.loads((ROOT / "benchmarks/results/startup.json").read_text())
    docs = " ".join((ROOT / "docs/benchmarks.md").read_text().split())
    assert f"{found['compress_over_torch']:.2f} s after what `import torch` takes" in docs
    assert f"{found['info_over_python']:.2f} s after what bare Python takes" in docs
    assert found["avoided_but_imported"] == []
    assert found["compress_over_torch"] < 1.5
    assert found["info_over_python"] < 0.5
