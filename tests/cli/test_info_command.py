"""`vcm info`: streams described without a model."""

import json
import subprocess
import sys
import time

from vcm.codecs.learned.container import Header, write_stream


def write_small_stream(path):
    header = Header("detection", b"\x01\x02\x03\x04", 43, (374, 500), (416, 416), 2.5)
    path.write_bytes(write_stream(header, [b"12345678"]))
    return path


def test_info_describes_a_stream(vcm, tmp_path):
    stream = write_small_stream(tmp_path / "a.vcm")
    status, out, err = vcm("info", stream)
    assert (status, err) == (0, "")
    parts = ("detection", "500 × 374", "416 × 416", "43", "2.5", "01020304", "rate         0.0014 bpp")
    for part in parts:
        assert part in out
    status, out, _ = vcm("info", stream, "--json")
    (entry,) = json.loads(out)
    size = stream.stat().st_size
    assert entry == {
        "file": str(stream), "purpose": "detection", "fingerprint": "01020304", "channels": 43,
        "quality": 2.5, "height": 374, "width": 500, "coded_height": 416, "coded_width": 416,
        "num_bytes": size, "header_bytes": size - 8, "bpp": 8 * size / (374 * 500),
    }  # fmt: skip


def test_info_says_what_is_no_stream(vcm, photos, tmp_path):
    stream = write_small_stream(tmp_path / "a.vcm")
    cut = tmp_path / "cut.vcm"
    cut.write_bytes(stream.read_bytes()[:-1])
    others = (photos / "000000000139.jpg", cut, tmp_path / "none", photos)
    status, out, err = vcm("info", *others, stream)
    assert status == 1
    assert out.startswith(str(stream))
    told = err.splitlines()
    parts = ("No such file", "there are no streams in this folder", "but a JPEG file", "cut short")
    assert len(told) == len(parts)
    assert all(part in line for part, line in zip(parts, told, strict=True))
    entries = json.loads(vcm("info", *others, stream, "--json")[1])
    assert ["error" in entry for entry in entries] == [True] * 4 + [False]


def test_info_describes_all_streams_of_a_folder(vcm, tmp_path):
    (tmp_path / "s/sub").mkdir(parents=True)
    for name in ("s/b.vcm", "s/sub/a.vcm", "s/.hidden.vcm"):
        write_small_stream(tmp_path / name)
    status, out, err = vcm("info", tmp_path / "s", "--json")
    assert (status, err) == (0, "")
    assert [entry["file"] for entry in json.loads(out)] == [f"{tmp_path}/s/b.vcm", f"{tmp_path}/s/sub/a.vcm"]


def test_info_answers_at_once_without_torch(tmp_path):
    stream = write_small_stream(tmp_path / "a.vcm")
    code = (
        f"import sys\nfrom vcm.cli.main import main\nassert main(['info', {str(stream)!r}]) == 0\n"
        "assert not {'torch', 'numpy', 'compressai'} & set(sys.modules)"
    )

    def seconds(code):
        def once():
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
            return time.perf_counter() - start

        return min(once() for _ in range(5))

    assert seconds(code) - seconds("pass") < 0.5
