"""The README's Python and shell blocks run as they are written, on fewer images."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from vcm.cli.main import main

README = Path(__file__).resolve().parent.parent / "README.md"


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_python(asset_path, capsys, monkeypatch):
    for name, file in (("yolov3-tiny", "yolov3-tiny.weights"), ("coco-sample", "instances.json")):
        asset_path(name, file)
    (code,) = blocks("python")
    assert "limit=20" in code
    exec(compile(code.replace("limit=20", "limit=3"), "README", "exec"), {})
    assert re.match(r"[+-]\d|n/a|None", capsys.readouterr().out)


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*LeafSpec")
def test_shell(asset_path, coco_images, tmp_path, monkeypatch, capsys):
    for name in ("yolov3-tiny", "photo-corpus"):
        asset_path(name, "yolov3-tiny.weights" if "yolo" in name else ".")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    with Image.open(coco_images[0]) as image:
        image.resize((160, 128)).save("photos/a.jpg")
        image.resize((160, 128)).save("photo.jpg")
    shell = next(block for block in blocks("console") if "vcm fetch" in block)
    lines = [line.partition("#")[0].strip() for line in shell.splitlines()]
    commands = [part.strip() for line in lines for part in line.split("&&")]
    assert len(commands) == 7
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "vcm"
        arguments = [{"data.test.limit=20": "data.test.limit=2"}.get(a, a) for a in arguments]
        more = ["data.crop_size=64", "data.batch_size=2"] if arguments[0] == "train" else []
        assert main([*arguments, *more]) == 0, (command, capsys.readouterr().err)
    assert Path("runs/mine/report.html").exists()
    assert Path("out/a.bpg").exists()
    assert Path("photo.jpg.json").exists()
