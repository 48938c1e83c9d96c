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
    "fetch": "download published weights and images into the cache",
    "codecs": "list the codecs, their quality scales, and whether they can run here",
    "evaluate": "measure rate-accuracy curves (takes Hydra overrides: experiment=demo, …)",
    "train": "train a network (takes Hydra overrides: experiment=slimmable/two_task_small, …)",
    "compress": "encode images with a trained model, for a task network or for people",
    "decompress": "decode these streams into images or predictions",
    "recommend": "find the codec and quality that keep a detector's results in the fewest bytes",
    "encode": "encode images as BPG, JPEG, … for a given detector or classifier",
    "preprocess": "filter images with a trained preprocessor, for any encoder",
    "info": "describe streams; needs no model",
    "collect": "join the jobs of a sweep into one report and one CSV file; list missing jobs",
    "report": "turn results of `vcm evaluate` into an HTML report with curves, BD-rates and example images",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns its exit status: 0 done, 1 done with inputs skipped, 2 not done."""
    lines = "\n".join(f"  {name:<10} {text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="vcm",
        description="Image compression for machines.",
        epilog=f"commands:\n{lines}\n\nUse vcm COMMAND --help for the options of a command.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"vcm {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="…", help="arguments of the command")
    known = parser.parse_args(arguments)
    with safe_streams():
        return _run(known.command, known.arguments)


def _run(name: str, arguments: Sequence[str]) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for file names that the terminal cannot encode
    # torch_geometric, which compressai imports, uses a deprecated part of torch.
    warnings.filterwarnings("ignore", message=".*torch.jit.* is deprecated")
    # Lightning 2.6 with torch 2.15.
    warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*is deprecated")
    # Task networks are fine-tuned in evaluation mode, which freezes their normalization statistics.
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
