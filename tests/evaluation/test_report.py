import csv
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from xml.etree import ElementTree

import bjontegaard
import matplotlib as mpl
import pytest
from PIL import Image

from vcm.cli.main import main
from vcm.codecs import AVIFCodec, CodecPool, JPEGCodec, WebPCodec
from vcm.errors import ArgumentError, EvaluationError
from vcm.evaluation.curves import Axis, Curve, axes_of, compare, curves
from vcm.evaluation.evaluate import Evaluation
from vcm.evaluation.pipelines import ImagePipeline
from vcm.evaluation.report import build_report, read_study
from vcm.evaluation.report.findings import findings
from vcm.evaluation.report.plots import as_pdf, as_png, as_svg, draw
from vcm.evaluation.results import Results

CHROMIUM = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--window-size=1400,900"),
    *("--virtual-time-budget=5000", "--allow-file-access-from-files", "--dump-dom"),
)

NAME = "<script>alert(1)</script>" + 200 * "n"
"""Told as it is, and no wider than the page."""

PROBE = """<script>addEventListener("load", () => {
  const box = element => {
    const r = element.getBoundingClientRect();
    return [r.x, r.y, r.width, r.height].map(Math.round).join();
  };
  const every = selector => [...document.querySelectorAll(selector)];
  const root = document.documentElement;
  const fetched = performance.getEntriesByType("resource").filter(entry => !entry.name.startsWith("data:"));
  const seen = {
    sizes: [...document.images].map(image => image.naturalWidth).join(),
    overlays: every(".image").every(p => box(p.querySelector("img")) == box(p.querySelector("svg"))),
    plots: every(".plots svg").map(plot => Math.round(plot.getBoundingClientRect().width)).join(),
    overflow: root.scrollWidth > root.clientWidth,
    fetched: fetched.length,
  };
  for (const [name, value] of Object.entries(seen)) document.body.setAttribute("data-" + name, value);
});</script></body>"""


def evaluate(world, folder, codecs, **options):
    task = options.pop("task", None) or world.task()
    with CodecPool(workers=1) as pool:
        systems = [
            ImagePipeline(name, codec, task) for name, versions in codecs.items() for codec in versions
        ]
        return Evaluation(NAME, task, world.dataset(), systems, folder=folder, pool=pool, **options).run()


@pytest.fixture(scope="module")
def kept_run(tmp_path_factory, make_world):
    folder = tmp_path_factory.mktemp("world")
    codecs = {
        "jpeg": [JPEGCodec(quality=q) for q in (10, 25, 50, 80)],
        "webp": [WebPCodec(quality=q) for q in (5, 20, 40)],
        "avif": [AVIFCodec(quality=q, speed=10) for q in (10, 40, 50)],
    }
    evaluate(make_world(folder), folder / "run", codecs, examples=2)
    return folder / "run"


@pytest.fixture
def run(kept_run, tmp_path):
    """Three codecs at three or four qualities: a copy of the run."""
    shutil.copytree(kept_run, tmp_path / "run")
    return tmp_path / "run"


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links = []

    def handle_starttag(self, tag, attrs):
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href") and tag != "a"]


def test_report_is_one_file_with_plots_beside_it(run):
    html = build_report([run]).read_text()
    links = Links()
    links.feed(html)
    assert links.links
    assert all(link.startswith(("data:", "#")) for link in links.links)
    assert "url(http" not in html
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)" in html
    names = {path.name for path in (run / "plots").iterdir()}
    stems = {"rate_map_truth", "rate_map_pseudo", "rate_psnr", "rate_ms_ssim_db"}
    assert names == {f"{stem}{suffix}" for stem in stems for suffix in (".svg", ".png", ".pdf")}
    for stem in stems:
        assert ElementTree.parse(run / "plots" / f"{stem}.svg").getroot().tag.endswith("svg")
        with Image.open(run / "plots" / f"{stem}.png") as image:
            assert min(image.size) > 300


def test_a_system_has_one_colour_in_every_plot():
    axis = Axis("psnr", "PSNR (dB)")
    names = [f"codec{number}" for number in range(10)]
    drawn = [Curve(name, name, [(0.1, 30.0), (0.2, 33.0)], [1, 2], [None, None], [], "") for name in names]

    def colours(curves):
        (plot,) = draw(curves, axis, None, systems=names).axes
        return {line.get_label(): (line.get_color(), line.get_marker()) for line in plot.lines}

    every = colours(drawn)
    assert len({colour for colour, _ in every.values()}) == 10
    assert colours(drawn[3:5]) == {name: every[name] for name in names[3:5]}


@pytest.mark.parametrize("title", ["JPEG", "коде́к 編解碼器 🦊"])
def test_the_users_settings_of_matplotlib_do_not_change_plots(title):
    curve = Curve("a", title, [(0.1, 30.0), (0.2, 33.0)], [1, 2], [None, None], [], "")
    settings = {
        **{"figure.dpi": 31, "figure.autolayout": True, "figure.constrained_layout.use": True},
        **{"figure.constrained_layout.w_pad": 1, "savefig.bbox": "tight", "savefig.dpi": 20},
    }
    files = []
    for theirs in ({}, settings):
        with mpl.rc_context(theirs):
            figure = draw([curve], Axis("psnr", "PSNR (dB)"), 34.0)
            files.append([save(figure) for save in (as_svg, as_png, as_pdf, as_svg)])
    assert files[0] == files[1]
    assert files[0][0] == files[0][-1]


def test_a_title_is_cut_to_the_width_of_the_legend():
    curve = Curve("a", "t" * 70, [(0.1, 30.0), (0.2, 33.0)], [1, 2], [None, None], [], "")
    for style, letters in (("screen", 60), ("paper", 50)):
        (plot,) = draw([curve], Axis("psnr", "PSNR (dB)"), None, style=style).axes
        assert [line.get_label() for line in plot.lines] == ["t" * (letters - 1) + "…"]


def test_plots_for_a_paper(run, tmp_path):
    assert main(["report", str(run), "--style", "paper", "--output", str(tmp_path / "paper")]) == 0
    plots = tmp_path / "paper" / "plots"
    for path in plots.glob("*.pdf"):
        content = path.read_bytes()
        assert content.startswith(b"%PDF")
        box = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ", content)
        assert float(box[1]) == pytest.approx(3.4 * 72, abs=1)
        assert b"CreationDate" not in content
        with Image.open(path.with_suffix(".png")) as image:
            assert image.width == pytest.approx(3.4 * 600, abs=2)
    assert "serif" in (plots / "rate_psnr.svg").read_text()
    assert len(list(plots.glob("*.pdf"))) == 4


def test_points_have_tooltips_and_plots_one_legend(run):
    html = build_report([run]).read_text()
    svgs = re.findall(r"<svg .*?</svg>", html.partition('class="plots"')[2].partition("</div>")[0], re.DOTALL)
    study = read_study([run])
    assert len(svgs) == len(study.curves)
    for svg, (axis, drawn) in zip(svgs, study.curves, strict=True):
        assert svg.count("<title>") == sum(len(curve.points) for curve in drawn)
        rate, value = drawn[0].points[0]
        said = f"{drawn[0].title}, {drawn[0].qualities[0]:g}: {rate:.4f} bpp, {value:.2f} ({axis.title})"
        assert f"<title>{said}</title>" in svg
        assert ">JPEG<" not in svg  # no legend of its own
    (legend,) = re.findall(r'<p class="legend">(.*?)</p>', html)
    assert [title in legend for title in ("JPEG", "WebP", "AVIF", "originals")] == [True] * 4


def test_three_sentences_sum_up_the_bd_rates(run, capsys):
    study = read_study([run])
    sentences = findings(study)
    assert len(sentences) == 3
    _, by_system = study.comparisons[study.main]
    known = sorted((c.rate.value, c.title) for c in by_system.values() if c.rate.value is not None)
    best = known[0][0]
    assert (f"saves {-best:.0f} % of the bits of JPEG" if best < 0 else "no codec needs fewer") in sentences[
        0
    ]
    assert f"Measured on {study.results.data['num_images']} images" in sentences[2]
    table = study.bd_table(of_rate=True)
    assert len(table.saved) == len(table.rows) == 2
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().err.splitlines()[-3:] == sentences


def test_bd_rates_equal_bjontegaard_on_the_csv(run):
    with (run / "results.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["labels"] == "pseudo"]
    columns = {
        name: [[float(r[key]) for r in rows if r["system"] == name] for key in ("bpp", "psnr")]
        for name in ("jpeg", "webp", "avif")
    }
    results = Results.read(run)
    axis = next(axis for axis in axes_of(results) if axis.key == "psnr")
    found = {c.system: c.rate for c in compare(curves(results.points, axis), "jpeg")}
    for name in ("webp", "avif"):
        expected = bjontegaard.bd_rate(
            *columns["jpeg"], *columns[name], method="pchip", require_matching_points=False, min_overlap=0
        )
        assert found[name].value == pytest.approx(expected, abs=1e-9)
    html = build_report([run], anchor="jpeg").read_text()
    assert f"{found['avif'].value:+.1f} %".replace("-", "−") in html


def test_failures_are_shown(world, tmp_path):
    (tmp_path / "images/02.png").write_text("no <b>image</b>")
    evaluate(world, tmp_path / "run", {"jpeg": [JPEGCodec(quality=50)]})
    html = build_report([tmp_path / "run"]).read_text()
    assert re.search(r"skipped: 2 .*02\.png: is not an image", html)


def test_runs_of_one_task_and_data_are_drawn_together(world, run, tmp_path):
    evaluate(
        world, tmp_path / "more", {"jpeg-444": [JPEGCodec(quality=q, chroma="444") for q in (5, 30, 80)]}
    )
    html = build_report([run, tmp_path / "more"], output=tmp_path / "both").read_text()
    assert "JPEG (jpeg-444)" in html
    with pytest.raises(EvaluationError, match="both hold jpeg at quality 10"):
        build_report([run, run])
    evaluate(world, tmp_path / "other", {"jpeg": [JPEGCodec(quality=5)]}, task=world.task(threshold=0.7))
    with pytest.raises(EvaluationError, match="different tasks or images"):
        build_report([run, tmp_path / "other"])


def test_bad_input(run, tmp_path):
    with pytest.raises(EvaluationError, match="contains no results"):
        build_report([tmp_path / "nowhere"])
    with pytest.raises(ArgumentError, match="anchor must be one of jpeg, webp, avif"):
        build_report([run], anchor="bpg")
    with pytest.raises(ArgumentError, match="accuracy must be one of map, map_50"):
        build_report([run], accuracy="top_1")
    (run / "results.json").write_text("{")
    with pytest.raises(EvaluationError, match="damaged"):
        build_report([run])


@pytest.mark.parametrize("width", [1280, 420])
def test_page_in_chromium(run, tmp_path, width):
    browser = shutil.which("chromium")
    if browser is None:
        assert not os.environ.get("CI"), "CI needs Chromium"
        pytest.skip("no Chromium here")
    html = build_report([run]).read_text()
    style = f"width:{width}px;height:900px;border:0"
    frame = f'<body style="margin:0"><iframe src="page.html" style="{style}"></iframe>'
    assert html.count("</body>") == 1
    page = tmp_path / "page.html"
    page.write_text(html.replace("</body>", PROBE))
    (tmp_path / "frame.html").write_text(
        f"{frame}<script>addEventListener('load', () => setTimeout(() => "
        "document.body.append(document.querySelector('iframe').contentDocument.body.cloneNode(false)"
        ".outerHTML), 500))"
        "</script></body>"
    )
    command = [
        browser,
        *CHROMIUM,
        f"--user-data-dir={tmp_path / 'profile'}",
        (tmp_path / "frame.html").as_uri(),
    ]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    copied = dumped.split("&lt;body", 1)[1].replace("&quot;", '"')
    seen = dict(re.findall(r'data-(\w+)="([^"]*)"', copied))
    sizes = [int(size) for size in seen["sizes"].split(",")]
    assert len(sizes) == 2 * 4
    assert all(170 <= size < 180 for size in sizes)
    assert seen["overlays"] == "true"
    assert len(seen["plots"].split(",")) == 4
    assert all(int(plot) > 250 for plot in seen["plots"].split(","))
    assert seen["overflow"] == "false"
    assert seen["fetched"] == "0"
