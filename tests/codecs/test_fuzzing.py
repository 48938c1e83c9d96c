"""Random damage to streams and forged model files: no crash, no hang, no flood, no silent wrong result.

The cases run in a process of their own, with limits of 5 s and 2 GB each; see `fuzzing`.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("fuzzing", Path(__file__).with_name("fuzzing.py"))
assert _spec is not None and _spec.loader is not None
fuzzing = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fuzzing)


@pytest.mark.parametrize(("kind", "count"), [("streams", 400), ("models", 54)])
def test_a_part_of_them(kind, count):
    outcomes = fuzzing.run(kind, count)
    assert set(outcomes) <= {"refused", "same", "some image"}, outcomes
    assert sum(outcomes.values()) == count
    assert outcomes["refused"] >= count // 3


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["narrow", "full", "bpg"])
def test_ten_thousand_damages_are_all_refused(kind):
    assert fuzzing.run(kind, 10_000) == {"refused": 10_000}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_streams_under_a_right_checksum_crash_nothing():
    outcomes = fuzzing.run("resealed", 10_000)
    assert set(outcomes) <= {"refused", "some image"}, outcomes


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", fuzzing.MODELS)
def test_forged_model_files_are_refused_or_code_as_they_should(kind):
    outcomes = fuzzing.run(kind, 1000 if kind == "tables" else 200)
    assert set(outcomes) <= {"refused", "same"}, outcomes
