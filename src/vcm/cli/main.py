"""`vcm`: dispatch to a command."""

from __future__ import annotations

import argparse
import io
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from vcm import __version__
from vcm.cli.streams import OutputClosedError, safe_streams
from vcm.errors import VCMError
from vcm.files import printable

COMMANDS = {
    "fetch": "get published weights and images into the cache",
    "codecs": "list the codecs, their quality scales, and whether they can run here",
    "evaluate": "measure real bytes against a task's accuracy (takes Hydra overrides: experiment=demo, …)",
    "train": "train a network (takes Hydra overrides: experiment=slimmable/two_task_small, …)",
    "compress": "turn images into streams by a trained model, for a detector or for people",
    "decompress": "turn such streams into images or predictions",
    "recommend": "find the codec and quality that keep what a detector finds, in the fewest bytes",
    "encode": "turn images into BPG, JPEG, … for a known detector or classifier",
    "preprocess": "filter images by a trained model, for an encoder of your own",
    "info": "describe streams, without any model",
    "collect": "join the jobs of sweeps into one report and one CSV, and name missing jobs",
    "report": "turn an evaluation's results into one HTML file with curves, BD-rates and example images",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0 done, 1 done with images left out, 2 not done."""
    lines = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="vcm",
        description="Image compression whose reader is a neural network.",
        epilog=f"commands:\n{lines}\n\nvcm COMMAND --help tells more about one of them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vcm {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="…", help="the command's own arguments"
    )
    known = parser.parse_args(arguments)
    with safe_streams():
        return _run(known.command, known.arguments)


def _run(name: str, arguments: Sequence[str]) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names that the terminal has no letters for
    # torch_geometric, which compressai imports, uses what torch is about to drop.
    warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
    # Lightning 2.6 with torch 2.15.
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*is deprecated")
    # A task that learns from decoded images keeps its normalization as it is.
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
    try:
        Path.cwd()
    except OSError:
        return _tell(name, "the working directory no longer exists. Change to another one.")
    command = import_module(f"vcm.cli.{name}")
    try:
        status = int(command.run(arguments))
        sys.stdout.flush()
    except VCMError as error:
        return _tell(name, str(error))
    except OutputClosedError as error:
        return _tell(name, f"standard output cannot be written: {error}.")
    except KeyboardInterrupt:
        print(f"\nvcm {name}: interrupted", file=sys.stderr)
        return 130
    return status


def _tell(command: str, problem: str) -> int:
    print(f"vcm {command}: error: {printable(problem, keep=chr(10))}", file=sys.stderr)
    return 2
