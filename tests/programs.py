"""Python programs in processes of their own, without the seconds that their imports take.

A server imports torch, Lightning and vcm once and forks itself for each program. So a program is what
`python -m vcm …` is (its own process, session, standard output and exit status; it can be killed), but starts
at once. For tests of what vcm imports, there is a server that has imported torch alone.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path

_POLL_S = 0.005
_GRACE_S = 20.0
_servers: dict[str, subprocess.Popen[str]] = {}


class Program:
    """A running program.

    Args:
        arguments: What follows `python`: `-m MODULE`, `-c CODE` or a script, after `-W ignore` or nothing,
            and the program's own arguments.
        cwd: Where it starts.
        env: Its environment.
        imported: What is imported already: "vcm", with all of its modules, or "torch".
    """

    def __init__(self, arguments, *, cwd=None, env=None, imported="vcm"):
        self._server = _server(imported)
        self.arguments = [str(each) for each in arguments]
        self.returncode = None
        self._told = None
        self._folder = Path(tempfile.mkdtemp(prefix="vcm-program-"))
        paths = [self._folder / name for name in ("stdout", "stderr")]
        for path in paths:
            path.touch()
        request = {
            "arguments": self.arguments,
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "paths": list(map(str, paths)),
        }
        self.pid = self._ask(request)

    def poll(self):
        """Return the exit status, negative for a signal, or None while it runs."""
        if self.returncode is None:
            self.returncode = self._ask({"poll": self.pid})
            if self.returncode is not None:
                self._told = self.told()
                shutil.rmtree(self._folder)
        return self.returncode

    def _ask(self, request):
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, "the server of programs has ended"
        return json.loads(answer)

    def wait(self, timeout=600):
        """Return the exit status once there is one; kill the program and raise after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill_group()
                raise subprocess.TimeoutExpired(self.arguments, timeout, *self.told())
            time.sleep(_POLL_S)
        return self.returncode

    def told(self):
        """Return what it has written to standard output and to standard error."""
        if self._told is not None:
            return self._told
        return [(self._folder / name).read_text() for name in ("stdout", "stderr")]

    def send_signal(self, number):
        """Send it a signal, at once, unless it is known to have ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self):
        """Send it SIGKILL, at once, unless it is known to have ended."""
        self.send_signal(signal.SIGKILL)

    def kill_group(self):
        """Send it and the processes that it started SIGKILL, unless it is known to have ended."""
        if self.returncode is None:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:  # it has only just been forked, and leads no group yet
                os.kill(self.pid, signal.SIGKILL)


def run(arguments, *, check=False, timeout=600, **options):
    """Run a program to its end, as `subprocess.run` with its output captured as text does."""
    program = Program(arguments, **options)
    status = program.wait(timeout)
    done = subprocess.CompletedProcess(program.arguments, status, *program.told())
    if check:
        done.check_returncode()
    return done


def run_together(arguments, count, *, timeout=600, cwd=None, env=None):
    """Run a program `count` times at once, as the processes of a training that torchrun starts are.

    Returns what `run` does, for each. Where one fails, the others are soon killed.
    """
    plain = dict(os.environ if env is None else env)
    if count > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            plain |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        plain |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "GROUP_RANK": "0"}
    ranks = [{**plain, "RANK": str(n), "LOCAL_RANK": str(n)} if count > 1 else plain for n in range(count)]
    together = [Program(arguments, cwd=cwd, env=each) for each in ranks]
    end = time.monotonic() + timeout
    while None in (statuses := [program.poll() for program in together]) and time.monotonic() < end:
        if any(statuses):
            end = min(end, time.monotonic() + _GRACE_S)
        time.sleep(_POLL_S)
    for program in together:
        program.kill_group()
        program.wait()
    return [subprocess.CompletedProcess(p.arguments, p.returncode, *p.told()) for p in together]


def _server(imported):
    if imported not in _servers:
        _servers[imported] = subprocess.Popen(
            [sys.executable, __file__, imported],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        atexit.register(_servers[imported].communicate)
    return _servers[imported]


def _serve(imported):
    """Answer requests until there are no more; in a forked program, return what it is to run."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    _import(imported)
    while line := requests.readline():
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            told = [os.open(path, os.O_WRONLY | os.O_APPEND) for path in request["paths"]]
            answer = os.fork()
            if answer == 0:
                os.close(requests.fileno())
                os.close(answers.fileno())
                return {**request, "told": told}
            for file in told:
                os.close(file)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return None


def _import(name):
    import gc
    import pkgutil
    import warnings
    from importlib import import_module

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = import_module(name)
        for module in pkgutil.walk_packages(package.__path__, f"{name}.") if name == "vcm" else ():
            if not module.name.endswith("__main__"):
                import_module(module.name)
    gc.collect()
    gc.freeze()


def _become(request):
    """Run what is asked for, as Python itself would."""
    import runpy
    import warnings

    os.setsid()
    for number, file in enumerate(request["told"], 1):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    if "lightning" in sys.modules:  # which takes its rank from the environment when it is imported
        from lightning.fabric.utilities import rank_zero

        rank_zero.rank_zero_only.rank = rank_zero._get_rank() or 0
    arguments = request["arguments"]
    if arguments[:2] == ["-W", "ignore"]:
        warnings.simplefilter("ignore")
        arguments = arguments[2:]
    sys.path[:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        sys.path.insert(0, request["cwd"])
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    elif arguments[0] == "-c":
        sys.argv = ["-c", *arguments[2:]]
        sys.path.insert(0, "")
        main = type(sys)("__main__")
        sys.modules["__main__"] = main
        exec(compile(arguments[1], "<string>", "exec"), main.__dict__)
    else:
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).resolve().parent))
        runpy.run_path(arguments[0], run_name="__main__")


def _end(status):
    """End as Python does, but without freeing each of a million objects: that takes a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def _main(imported):
    request = _serve(imported)
    if request is None:
        _end(0)
    status = 0
    try:
        _become(request)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if stop.code is not None and not isinstance(stop.code, int):
            print(stop.code, file=sys.stderr)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
        status = 1
    _end(status)


if __name__ == "__main__":
    _main(sys.argv[1])
