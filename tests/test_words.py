"""One term for one idea: words that vcm no longer uses are in no source, config, page or help text."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FORMER = {
    r"pictures?": "image",
    r"data sets?": "dataset",
    r"told|likewise|besides|anew": "a plain sentence",
    r"of no meaning|to be had|held? against|made anew|rooms": "a plain sentence",
    r"weight_scale|check_weight|check_rate|rate_at": "lmbda",
    r"auxiliary_loss|auxiliary_learning_rate": "aux_loss, aux_learning_rate",
    r"ImageSystem|FeatureSystem": "ImagePipeline, FeaturePipeline",
    r"Fault": "Failure",
}
PLACES = (
    *("src/vcm/**/*.py", "src/vcm/**/*.j2", "src/vcm/weights/*.md", "conf/**/*.yaml", "docs/**/*.md"),
    *("examples/**/*.py", "examples/**/*.yaml", "examples/**/*.md", "benchmarks/*.py"),
    *("README.md", "CONTRIBUTING.md", ".github/**/*.md"),
)
KEPT = re.compile(
    r'"pictures?"|pictures_sha256|Picture(Error|DataModule|Dataset|FolderDataset|System)|per_picture|=pictures'
    r"|former_(names|arguments|attribute)|FORMER|"
    r'^\s*"(weights|weight_scale|auxiliary_learning_rate|rates?)": "|^\s*weights="lmbda"'
)
"""Keys of files and records of vcm 0.1, and former names that still work."""
HEVC = re.compile(r"src/vcm/codecs/bpg/")
"""HEVC's own term for what it codes is "picture"."""


def lines():
    for pattern in PLACES:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if not KEPT.search(line) and "|weight_scale|" not in line:
                    yield name, number, line


@pytest.mark.parametrize("former", FORMER)
def test_a_former_term_is_used_nowhere(former):
    word = re.compile(rf"(?<![\w/.-])({former})(?![\w/-])")
    found = [
        f"{name}:{number}: {line.strip()}"
        for name, number, line in lines()
        if word.search(line) and not ("picture" in former and HEVC.match(name))
    ]
    assert not found, f"use {FORMER[former]}:\n" + "\n".join(found)
