import resource
import subprocess
import sys

import pytest

from vcm.cli.main import COMMANDS, main


def seconds(code):
    """Processor time that a process takes, which does not depend on what else runs; best of five."""

    def once():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    return min(once() for _ in range(5))


@pytest.mark.parametrize("command", ["--help", "codecs"])
def test_answers_at_once(command):
    start = f"from vcm.cli.main import main\ntry: main([{command!r}])\nexcept SystemExit: pass"
    assert seconds(start) - seconds("pass") < 0.5


@pytest.mark.parametrize("command", ["--help", "codecs"])
def test_imports_no_torch(command):
    code = (
        f"import sys\nfrom vcm.cli.main import main\ntry: main([{command!r}])\nexcept SystemExit: pass\n"
        "sys.exit(bool({'torch', 'lightning', 'compressai'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--help"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in COMMANDS)


def test_unknown_command(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["evalute"])
    assert stopped.value.code == 2
    assert "evaluate" in capsys.readouterr().err


def test_codecs_tells_scales(capsys):
    assert main(["codecs"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    standard = {"avif", "bpg", "bpgenc", "jpeg", "jpeg2000", "jxl", "webp"}
    assert set(lines) == {"NAME", "compressai", "features", "learned"} | standard
    assert "0 to 51" in lines["bpg"]
    assert "lower" in lines["bpg"]
    assert "1 to 100" in lines["jpeg"]
    assert lines["jpeg"].endswith("yes")


def test_fetch_needs_a_name_it_knows(capsys):
    assert main(["fetch", "yolo"]) == 2
    assert "there is no asset 'yolo'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["fetch"])


def test_report_without_results(capsys, tmp_path):
    assert main(["report", str(tmp_path)]) == 2
    assert "contains no results" in capsys.readouterr().err
