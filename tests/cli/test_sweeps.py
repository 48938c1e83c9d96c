"""Sweeps under real launchers: exit status, what is told of failed jobs, names of folders."""

from __future__ import annotations

from pathlib import Path

import pytest

import programs
from vcm.cli.sweeps import MAX_NAME, sweep_name

LAUNCHERS = ["basic", "joblib", "submitit_local"]


def sweep(training, *arguments):
    return programs.run(["-m", "vcm", *training, *arguments, "--multirun"], timeout=400)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_failed_job_counts_and_is_named_under_every_launcher(training, launcher):
    chosen = [] if launcher == "basic" else [f"hydra/launcher={launcher}"]
    done = sweep(training, *chosen, "module.max_norm=1,-1")
    assert done.returncode == 2, done.stderr
    assert "vcm train: 1 of 2 jobs failed:" in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("  ") and "max_norm=-1" in line]
    assert "max_norm must be a number above 0; got -1." in line
    models = [path.parent.name for path in Path("runs").rglob("model.safetensors")]
    assert len(models) == 1
    assert "=" not in models[0]
    assert not list(Path("runs").glob(".jobs-*"))
    assert "Traceback" not in done.stderr.partition("jobs failed")[2]


KILLING = """
import os
import signal

from lightning.pytorch.callbacks import Callback


class Kill(Callback):
    def on_train_start(self, trainer, pl_module):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_job_counts_as_failed(training, tmp_path, monkeypatch):
    (tmp_path / "killing.py").write_text(KILLING)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    callbacks = "+trainer.callbacks=[{_target_: killing.Kill}]"
    done = sweep(training, "hydra/launcher=joblib", callbacks, "seed=1")
    assert done.returncode == 2, done.stderr
    assert "1 of 1 jobs failed:" in done.stderr
    assert "it did not finish" in done.stderr
    assert "Traceback" not in done.stderr.partition("jobs failed")[2]


def test_all_done_is_status_0_and_again_runs_nothing(training):
    for _ in range(2):
        done = sweep(training, "seed=1,2")
        assert done.returncode == 0, done.stderr
        assert "failed" not in done.stderr
    assert done.stdout.count("is already done") == 2


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        (["seed=1"], "seed-1"),
        (["module.lmbda_scale=0.5", "network=s_bhm"], "module.lmbda_scale-0.5_network-s_bhm"),
        (["+trainer.limit_train_batches=2"], "trainer.limit_train_batches-2"),
        (["x=-1"], "x--1"),
    ],
)
def test_short_plain_overrides_are_their_own_names(overrides, name):
    assert sweep_name(overrides) == name


def test_a_folder_keeps_its_name_where_a_plus_became_two():
    for override in ("+trainer.limit_train_batches=1", "+trainer.x={a: 1}"):
        assert sweep_name([f"+{override}"]) == sweep_name([override])


def test_names_are_short_safe_and_different():
    overrides = [
        ["a=1/2"],
        ["a=1_2"],
        ['a="1 2"'],
        ["codecs.bpg.qualities=[42,37,32]"],
        ["codecs.bpg.qualities=[42,37,33]"],
        [f"module.very.long.name{number}=value" for number in range(20)],
        [f"module.very.long.name{number}=value" for number in range(21)],
        ["data.test.root=../../etc"],
        ["data.test.root=" + "x" * 300],
        [],
        [".."],
    ]
    names = [sweep_name(one) for one in overrides]
    assert len(set(names)) == len(names)
    for name in names:
        assert len(name) <= MAX_NAME + 9
        assert "=" not in name
        assert "/" not in name
        assert name.strip(".")
