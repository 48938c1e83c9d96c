"""The wheel, as a user gets it: built through the source archive, installed, and run from an empty folder."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """The wheel, and what its making printed."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
    return next(folder.glob("*.whl")), done.stdout


@pytest.fixture(scope="module")
def wheel(build):
    return build[0]


@pytest.fixture(scope="module")
def vcm(wheel, tmp_path_factory):
    """The `vcm` of a new environment that borrows everything but vcm from this one."""
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, with_pip=False, symlinks=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        folder / "bin/python",
        "install",
        "--no-deps",
        "--quiet",
        wheel,
    )
    return folder / "bin/vcm"


def test_no_folder_of_data_passes_for_a_forgotten_package(build):
    assert "absent from" not in build[1]


def test_wheel_holds_configuration_templates_and_type_marker(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {
        f"vcm/conf/{path.relative_to(ROOT / 'conf').as_posix()}" for path in ROOT.glob("conf/**/*.yaml")
    }
    assert shipped
    assert shipped <= names
    assert {"vcm/weights/qa_npp_bpg_detection.safetensors", "vcm/weights/qa_npp_bpg_detection.md"} <= names
    assert {"vcm/py.typed", "vcm/evaluation/report/templates/report.html.j2"} <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "conf/"))]


def test_installed_wheel_evaluates_from_an_empty_folder(vcm, asset_path, tmp_path):
    for name, file in (("yolov3-tiny", "yolov3-tiny.cfg"), ("coco-sample", "images")):
        asset_path(name, file)
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    where = run(vcm.parent / "python", "-c", "import vcm; print(vcm.__file__)", cwd=tmp_path, env=environment)
    assert Path(where.strip()).is_relative_to(vcm.parent.parent)
    arguments = ("codec=[jpeg]", "codecs.jpeg.qualities=[10,60]", "data.test.limit=2", "name=wheel")
    printed = run(vcm, "evaluate", *arguments, cwd=tmp_path, env=environment)
    assert "yolov3-tiny, 2 images" in printed
    report = Path(run(vcm, "report", "runs/wheel", cwd=tmp_path, env=environment).strip())
    assert report == tmp_path / "runs/wheel/report.html"
    assert report.stat().st_size > 50_000
