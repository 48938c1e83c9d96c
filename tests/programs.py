"""Python programs in processes of their own, without the seconds that their imports take.

A server imports torch, Lightning and vcm once and forks itself for each program. So a program is what
`python -m vcm …` is (its own process, session, standard output and exit status; it can be killed), but starts
at once. Tests of what is imported, and when, start Python itself.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

_POLL_S = 0.005
_GRACE_S = 20.0
_server: subprocess.Popen[str] | None = None


class Program:
    """A running program.

    Args:
        arguments: What follows `python`: `-m MODULE`, `-c CODE` or a script, after `-W ignore` or nothing,
            and the program's own arguments.
        cwd: Where it starts.
        env: Its environment.
    """

    def __init__(self, arguments, *, cwd=None, env=None):
        self.arguments = [str(each) for each in arguments]
        self.returncode = None
        self._told = [tempfile.NamedTemporaryFile() for _ in range(2)]  # noqa: SIM115
        request = {
            "arguments": self.arguments,
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "paths": [file.name for file in self._told],
        }
        self.pid = _ask(request)

    def poll(self):
        """Return the exit status, negative for a signal, or None while it runs."""
        if self.returncode is None:
            self.returncode = _ask({"poll": self.pid})
        return self.returncode

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
        texts = []
        for file in self._told:
            file.seek(0)
            texts.append(file.read().decode())
        return texts

    def send_signal(self, number):
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        """Send it SIGKILL, unless it has ended."""
        self.send_signal(signal.SIGKILL)

    def kill_group(self):
        """Send it and the processes that it started SIGKILL, unless it has ended."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)


def run(arguments, *, check=False, timeout=600, cwd=None, env=None):
    """Run a program to its end, as `subprocess.run` with its output captured as text does."""
    program = Program(arguments, cwd=cwd, env=env)
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


def _ask(request):
    global _server  # noqa: PLW0603
    if _server is None:
        _server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        atexit.register(_server.communicate)
    _server.stdin.write(json.dumps(request) + "\n")
    _server.stdin.flush()
    answer = _server.stdout.readline()
    assert answer, "the server of programs has ended"
    return json.loads(answer)


def _serve():
    """Answer requests until there are no more; in a forked program, return what it is to run."""
    requests, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    _import_all()
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


def _import_all():
    import gc
    import pkgutil
    import warnings
    from importlib import import_module

    import vcm

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for module in pkgutil.walk_packages(vcm.__path__, "vcm."):
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


if __name__ == "__main__" and (request := _serve()) is not None:
    _become(request)
