"""Sweeps from start to report: launchers agree, done jobs stay done, `vcm collect` joins them."""

from __future__ import annotations

import csv
import json
import math
import os
import time
from pathlib import Path

import pytest

import programs
from vcm.cli.main import main
from vcm.cli.sweeps import JOB_FILE, PLAN_FILE

LAUNCHERS = {
    "basic": (),
    "joblib": ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "submitit_local": ("hydra/launcher=submitit_local",),
    "ray": ("hydra/launcher=ray", "+hydra.launcher.ray.init.include_dashboard=false"),
}
SWEEP = (
    *("experiment=npp_lambda", "codec=[jpeg],[webp]", "preprocessor.lmbda=0.5,2"),
    *("data.test.limit=2", "bootstrap=0", "examples=0", "workers=1", "name=lambda"),
)


@pytest.fixture
def folder(asset_path, tmp_path, monkeypatch):
    for name, file in (("yolov3-tiny", "yolov3-tiny.cfg"), ("coco-sample", "images")):
        asset_path(name, file)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*arguments):
    return ["-m", "vcm", "evaluate", *arguments]


def sweep(*arguments):
    return programs.run(command(*arguments), timeout=500, env=environment())


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


def results(folder):
    return {path.parent.name: path.read_bytes() for path in sorted(Path(folder).rglob("results.json"))}


def test_every_launcher_finds_the_same_numbers(folder):
    found = {}
    for name, chosen in LAUNCHERS.items():
        one = (
            ("codec=[jpeg]", "preprocessor.lmbda=1,2")
            if name == "joblib"
            else ("codec=[jpeg]", "preprocessor.lmbda=1")
        )
        done = sweep(SWEEP[0], *one, *SWEEP[3:], *chosen, f"run_dir={name}")
        assert done.returncode == 0, done.stderr
        found[name] = next(content for job, content in results(name).items() if job.startswith("lmbda-1_"))
        jobs = json.loads((folder / name / PLAN_FILE).read_text())["jobs"]
        assert len(jobs) == len(results(name)) == (2 if name == "joblib" else 1)
    assert all(content == found["basic"] for content in found.values())


def test_a_killed_sweep_goes_on_without_a_job_twice_and_is_collected(folder, capsys):
    arguments = (*SWEEP, *LAUNCHERS["joblib"])
    process = programs.Program(command(*arguments), env=environment())
    runs = folder / "runs/lambda"
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline and not list(runs.glob(f"*/{JOB_FILE}")):
        time.sleep(0.02)
    process.kill_group()
    process.wait()
    done = {path: path.stat().st_mtime_ns for path in runs.glob(f"*/{JOB_FILE}")}
    assert 0 < len(done) < 4
    capsys.readouterr()
    assert main(["collect", str(runs)]) == 1
    told = capsys.readouterr().err
    assert f"{4 - len(done)} of 4 jobs are missing or failed:" in told
    assert "it was not run" in told or "it did not finish" in told

    again = sweep(*arguments)
    assert again.returncode == 0, again.stderr
    assert len(list(runs.glob(f"*/{JOB_FILE}"))) == 4
    assert done == {path: path.stat().st_mtime_ns for path in done}
    assert main(["collect", str(runs)]) == 0
    assert str((runs / "report.html").resolve()) in capsys.readouterr().out
    with (runs / "points.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 4 * 2  # jobs, qualities, kinds of labels
    assert {row["preprocessor.lmbda"] for row in rows} == {"0.5", "2"}
    assert {row["codec"] for row in rows} == {"[jpeg]", "[webp]"}
    assert len({row["system"] for row in rows}) == 4
    assert all(float(row["bpp"]) > 0 for row in rows)


def test_a_job_is_run_again_when_its_settings_or_results_change(folder):
    arguments = ("--multirun", "codec=[jpeg]", "codecs.jpeg.qualities=[50]", *SWEEP[3:7], "run_dir=one")
    assert sweep(*arguments).returncode == 0
    (job,) = folder.glob(f"one/*/{JOB_FILE}")
    assert "is already done" in sweep(*arguments).stdout
    (job.parent / "results.json").unlink()
    again = sweep(*arguments)
    assert "is already done" not in again.stdout
    assert (job.parent / "results.json").is_file()
    record = json.loads(job.read_text())
    job.write_text(json.dumps({**record, "key": "0" * 64}))
    assert "is already done" not in sweep(*arguments).stdout


def test_optuna_minimizes_a_bd_rate_and_names_the_best(folder):
    arguments = (
        *(
            "hparams_search=optuna",
            "hydra.sweeper.n_trials=6",
            "codec=[jpeg,webp]",
            "objective.labels=pseudo",
        ),
        *("codecs.webp.codec.method=range(0,6)", "objective.codec=webp", "objective.anchor=jpeg"),
        *("codecs.jpeg.qualities=[2,10,50]", "codecs.webp.qualities=[0,10,50]", *SWEEP[4:7]),
        *("data.test.limit=4", "name=search"),
    )
    done = sweep(*arguments)
    assert done.returncode == 0, done.stderr
    jobs = [json.loads(path.read_text()) for path in folder.glob(f"runs/search/*/{JOB_FILE}")]
    values = {job["overrides"][0]: job["objective"]["value"] for job in jobs}
    assert 2 <= len(values) <= 6
    best = min(values, key=lambda name: math.inf if values[name] is None else values[name])
    assert (
        f"BD-rate of webp against jpeg at equal mAP@50:95, pseudo-labels (%) {values[best]:.6g} with {best}"
        in (done.stdout)
    )
    again = sweep(*arguments)
    assert again.stdout.count("is already done") == 6


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("objective.codec=bpg", "objective.codec must be null or one of jpeg"),
        ("objective.anchor=avif", "objective.anchor must be null or one of jpeg"),
        ("objective.labels=gold", "objective.labels must be null, truth or pseudo"),
        ("hydra/launcher=nope", "nope"),
    ],
)
def test_objectives_that_cannot_be_are_refused_before_the_first_image(folder, capsys, given, message):
    assert main(["evaluate", "--multirun", "codec=[jpeg]", *SWEEP[3:7], "run_dir=one", given]) == 2
    assert message in capsys.readouterr().err
    assert not results(folder / "one")


def test_a_training_sweep_has_the_monitored_metric_as_its_objective(training, capsys):
    arguments = [*training, "module.learning_rate=0.001,0.01", "--multirun"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "best of 2 jobs: val/loss" in out
    assert main(["collect", "runs/small"]) == 0
    with Path("runs/small/jobs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["module.learning_rate"] for row in rows] == ["0.001", "0.01"]
    assert all(float(row["value"]) > 0 for row in rows)
    assert main([*arguments[:-1], "objective.metric=val/nothing", "--multirun"]) == 2
    assert "objective.metric must be one of" in capsys.readouterr().err


def test_collecting_nothing_says_what_to_do(tmp_path, capsys):
    assert main(["collect", str(tmp_path)]) == 2
    assert "Run `vcm evaluate --multirun`" in capsys.readouterr().err


def test_a_damaged_record_of_a_job_is_named(tmp_path, capsys):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / JOB_FILE).write_text('{"number": 0')
    assert main(["collect", str(tmp_path)]) == 2
    assert "job.json is damaged" in capsys.readouterr().err
