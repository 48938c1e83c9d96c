"""`vcm train` on a folder that holds a run: what may change, what is damaged, who else is there."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from omegaconf import OmegaConf

import programs
from vcm.cli.main import main
from vcm.cli.resume import content_of
from vcm.nn.slimmable import load_network
from vcm.tasks import ClassificationTask

FOLDER = Path("runs/small")
LAST = FOLDER / "checkpoints" / "last.ckpt"


@pytest.fixture
def told(capsys):
    """`told(arguments)`: the status and what was printed."""

    def run(arguments):
        capsys.readouterr()
        status = main(arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out + captured.err

    return run


def longer(arguments, epochs=2):
    return [a.replace("max_epochs=1", f"max_epochs={epochs}") for a in arguments]


def test_a_run_with_nothing_left_to_do_says_so_and_names_a_model_that_is_there(training, told):
    assert main(training) == 0
    before = load_network(FOLDER / "model.safetensors").weights_sha256()
    status, said = told(training)
    assert status == 0
    assert "nothing left to train: " in said
    assert "small has completed its 1 epochs; increase trainer.max_epochs" in said
    assert load_network(FOLDER / "model.safetensors").weights_sha256() == before


def test_a_refused_resume_leaves_the_run_as_it_was(training, told, tmp_path):
    assert main(training) == 0
    before = (FOLDER / "config.yaml").read_bytes()
    torch.manual_seed(5)
    network = ClassificationTask("mobilenet_v2", None, categories=["a", "b"])
    parts = {**network.stages.state_dict(prefix="features."), **network.head.state_dict()}
    torch.save(parts, tmp_path / "w2.pth")
    other = [
        a.replace("classification.weights=null", f"classification.weights={tmp_path}/w2.pth")
        for a in training
    ]
    status, said = told(longer(other))
    assert status == 2, said
    assert (FOLDER / "config.yaml").read_bytes() == before
    assert told(longer(training))[0] == 0


def test_a_run_of_0_1_resumes(training, told):
    assert main(training) == 0
    saved = OmegaConf.load(FOLDER / "config.yaml")
    for present, former in (
        ("lmbda", "weights"),
        ("lmbda_scale", "weight_scale"),
        ("aux_learning_rate", "auxiliary_learning_rate"),
    ):
        saved.module[former] = saved.module.pop(present)
    (FOLDER / "config.yaml").write_text(OmegaConf.to_yaml(saved))
    status, said = told(longer(training))
    assert status == 0, said
    assert "epoch 1" in said
    assert "lmbda" in OmegaConf.load(FOLDER / "config.yaml").module


def test_a_debug_run_is_no_run(training, told):
    status, said = told([*training, "+trainer.fast_dev_run=true"])
    assert status == 0
    assert "fast_dev_run: training and validation ran; nothing was saved" in said
    assert "the model:" not in said
    assert not FOLDER.exists()
    status, said = told(training)
    assert (status, "nothing left" in said) == (0, False)
    assert LAST.exists()
    before = LAST.read_bytes()
    assert told([*longer(training), "+trainer.fast_dev_run=2"])[0] == 0
    assert LAST.read_bytes() == before


def test_settings_that_do_not_matter_may_change(training, told, tmp_path):
    assert main(training) == 0
    (tmp_path / "moved").mkdir()
    shutil.move("train", "moved/photos")
    changed = [
        a.replace("data.train.root=train", f"data.train.root={tmp_path}/moved/photos") for a in training
    ]
    status, said = told(longer([*changed, "data.num_workers=1"]))
    assert status == 0, said
    assert "nothing left" not in said
    assert len((FOLDER / "metrics.jsonl").read_text().splitlines()) == 2


def test_other_images_under_another_path_are_refused_with_both_values(training, told, tmp_path):
    assert main(training) == 0
    shutil.copytree("train", "other")
    (tmp_path / "other" / "0.png").unlink()
    status, said = told(longer([a.replace("root=train", "root=other") for a in training]))
    assert status == 2
    assert f"Cannot resume {tmp_path}/runs/small: data.train.root changed (train -> other)." in said


def test_changed_images_at_the_same_path_are_noted(training, told):
    assert main(training) == 0
    Path("train/7.png").unlink()
    status, said = told(longer(training))
    assert status == 0
    assert "note: the files of data.train.root=train changed since the run began" in said


def test_every_changed_setting_is_named(training, told):
    assert main(training) == 0
    status, said = told(
        [*longer(training), "module.lmbda_scale=2", "module.max_norm=3", "+module.plateau_x=1"]
    )
    assert status == 2
    assert "module.lmbda_scale changed (1 -> 2); module.max_norm changed (1.0 -> 3); " in said
    assert "module.plateau_x changed (not set -> 1)" in said


def test_a_setting_that_vcm_has_gained_since_does_not_matter(training, told):
    assert main(training) == 0
    saved = OmegaConf.load(FOLDER / "config.yaml")
    del saved.module["near_weight"]
    OmegaConf.save(saved, FOLDER / "config.yaml")
    assert told(longer(training))[0] == 0
    OmegaConf.save(saved, FOLDER / "config.yaml")
    status, said = told(longer([*training, "module.near_weight=0.5"], 3))
    assert (status, "module.near_weight changed (not set -> 0.5)" in said) == (2, True)


def test_content_of_a_folder_is_that_of_its_data_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"1")
    assert content_of(str(tmp_path / "a")) == content_of(str(tmp_path / "b"))
    (tmp_path / "b" / "x.png").write_bytes(b"2")
    assert content_of(str(tmp_path / "a")) != content_of(str(tmp_path / "b"))
    (tmp_path / "b" / "notes.log").write_bytes(b"3")
    (tmp_path / "b" / "x.png").write_bytes(b"1")
    assert content_of(str(tmp_path / "a")) == content_of(str(tmp_path / "b"))
    assert content_of("nowhere") is None
    assert content_of(str(tmp_path / "a" / "x.png")) not in (None, content_of(str(tmp_path / "a")))


def test_one_flipped_bit_of_a_checkpoint_is_told(training, told):
    assert main(training) == 0
    whole = LAST.read_bytes()
    for place in range(200, len(whole), len(whole) // 12):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        LAST.write_bytes(damaged)
        status, said = told(longer(training))
        if status == 0:  # the bit lies in padding between the archive's parts
            assert _tensors(bytes(damaged)) == _tensors(whole)
            shutil.rmtree(FOLDER)
            assert main(training) == 0
        else:
            assert (status, "last.ckpt is damaged and cannot be resumed" in said) == (2, True)
    LAST.write_bytes(whole)
    assert told(longer(training))[0] == 0


def _tensors(data):
    """The stored parts of a checkpoint, as bytes."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], {"epoch": 1}])
def test_a_checkpoint_without_lightnings_keys_is_told(training, told, content):
    assert main(training) == 0
    torch.save(content, LAST)
    status, said = told(longer(training))
    assert status == 2
    assert "is not a checkpoint that `vcm train` wrote: it lacks" in said


def test_a_checkpoint_that_is_no_file_is_told(training, told):
    assert main(training) == 0
    LAST.unlink()
    os.mkfifo(LAST)
    status, said = told(longer(training))
    assert (status, "it is a FIFO, not a regular file" in said) == (2, True)


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "content", [LAUGHS, "[1, 2", "\x00", "- 1", "a: ${b", "[" * 100_000, "x: !!python/name:os"]
)
def test_a_damaged_configuration_is_told(training, told, content):
    FOLDER.mkdir(parents=True)
    assert main(training) == 0
    (FOLDER / "config.yaml").write_text(content)
    status, said = told(longer(training))
    assert status == 2
    assert "config.yaml is damaged" in said


def test_two_trainings_of_one_folder_are_one_too_many(training, told):
    assert main(training) == 0
    with FileLock(FOLDER / ".lock"):
        status, said = told(longer(training))
    assert status == 2
    assert "another process is training there" in said
    assert told(longer(training))[0] == 0


def test_what_a_killed_run_left_half_written_is_removed(training, told):
    assert main(training) == 0
    for place in (FOLDER, LAST.parent):
        (place / ".vcm-0123456789abcdef.partial").write_bytes(b"half")
    assert told(longer(training))[0] == 0
    assert not list(FOLDER.rglob("*.partial"))


def test_a_link_in_the_run_folder_is_not_followed(training, told, tmp_path):
    (tmp_path / "victim").write_text("precious")
    FOLDER.mkdir(parents=True)
    for name in ("metrics.jsonl", "model.safetensors", "config.yaml", "inputs.json"):
        (FOLDER / name).symlink_to(tmp_path / "victim")
    assert told(training)[0] == 0
    assert (tmp_path / "victim").read_text() == "precious"
    assert load_network(FOLDER / "model.safetensors").tasks


FULL_DISK = """
import resource, sys
from vcm.cli.main import main
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk_is_told(training):
    done = programs.run(["-c", FULL_DISK, *training], timeout=300)
    assert done.returncode == 2, done.stderr
    assert "last.ckpt cannot be written: File too large. Free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(FOLDER.rglob("*.partial"))


KILLED = """
import os, signal, sys
from pathlib import Path
from vcm.cli.main import main

before, name, count = sys.argv[1] == "before", sys.argv[2], int(sys.argv[3])
plain = Path.replace


def replace(self, target):
    global count
    count -= Path(target).name == name
    if before and Path(target).name == name and count == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    plain(self, target)
    if not before and Path(target).name == name and count == 0:
        os.kill(os.getpid(), signal.SIGKILL)


Path.replace = replace
sys.exit(main(sys.argv[4:]))
"""


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Holds the model of the run that nothing stopped, once there is one."""
    return {}


def _unbroken_model(unbroken, training):
    if not unbroken:
        assert main([*longer(training, 3)[:-1], "name=unbroken"]) == 0
        unbroken["model"] = load_network("runs/unbroken/model.safetensors").weights_sha256()
        lines = Path("runs/unbroken/metrics.jsonl").read_text().splitlines()
        unbroken["epochs"] = [json.loads(line)["epoch"] for line in lines]
    return unbroken


MOMENTS = [
    (moment, name, count)
    for name, count in (
        *(("metrics.jsonl", 3), ("last.ckpt", 1), ("last.ckpt", 3)),
        *(("model.safetensors", 1), ("model.safetensors", 3)),
    )
    for moment in ("before", "after")
]
QUICK = [("after", "metrics.jsonl", 3), ("before", "last.ckpt", 1), ("after", "last.ckpt", 3)]


@pytest.mark.parametrize(
    ("moment", "name", "count"),
    [pytest.param(*m, marks=() if m in QUICK else pytest.mark.slow) for m in MOMENTS],
)
def test_a_kill_at_any_moment_of_saving_leaves_the_unbroken_runs_model(
    training, unbroken, moment, name, count
):
    expected = _unbroken_model(unbroken, training)
    script = ["-c", KILLED, moment, name, str(count)]
    done = programs.run([*script, *longer(training, 3)], timeout=300)
    assert done.returncode == -9, done.stderr
    assert main(longer(training, 3)) == 0
    _assert_same_run(expected)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_at_random_leave_the_unbroken_runs_model(training, unbroken):
    expected = _unbroken_model(unbroken, training)
    moments = random.Random(0)
    command = [sys.executable, "-m", "vcm", *longer(training, 3)]
    subprocess.run(command, capture_output=True, check=True, timeout=300)  # warms the disk's cache
    shutil.rmtree(FOLDER)
    start = time.monotonic()
    subprocess.run(command, capture_output=True, check=True, timeout=300)
    whole = time.monotonic() - start
    killed = 0
    for _ in range(20):
        shutil.rmtree(FOLDER)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with suppress(subprocess.TimeoutExpired):
            process.wait(moments.uniform(0.5 * whole, whole))
        process.kill()
        killed += process.wait() == -9
        assert main(longer(training, 3)) == 0
        _assert_same_run(expected)
    assert killed >= 10


def _assert_same_run(expected):
    assert load_network(FOLDER / "model.safetensors").weights_sha256() == expected["model"]
    lines = (FOLDER / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == expected["epochs"]


def test_saved_settings_are_the_composed_ones(training):
    assert main(training) == 0
    assert OmegaConf.load(FOLDER / "config.yaml").module.lmbda.classification == 0.001
