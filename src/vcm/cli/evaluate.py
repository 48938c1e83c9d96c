"""`vcm evaluate`: compose a configuration, build its parts, measure, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from vcm.cli.devices import choose_device
from vcm.cli.job import run_job
from vcm.cli.objectives import bd_objective, check_bd_objective
from vcm.cli.pipelines import build, build_codecs, build_pipelines, build_preprocessors
from vcm.cli.sweeps import JobResult
from vcm.codecs import CodecPool
from vcm.config import BDRateObjective, EvaluateConfig
from vcm.data import ImageDataModule
from vcm.data.datasets import ImageDataset
from vcm.errors import ArgumentError
from vcm.evaluation.evaluate import Evaluation
from vcm.evaluation.results import RESULTS_JSON, Results
from vcm.evaluation.sharing import Sharers
from vcm.files import printable
from vcm.provenance import deciding_versions
from vcm.tasks import Task

MAX_CHANGED = 5
"""Maximum number of changed settings listed in a note."""


def run(arguments: Sequence[str]) -> int:
    """Evaluate; with `--multirun`, once per combination. Returns the worst exit status."""
    return run_job("evaluate", arguments, _run_once, deciding_versions())


def _run_once(composed: DictConfig) -> JobResult:
    plan = dict(OmegaConf.merge(OmegaConf.structured(BDRateObjective), composed.get("objective", {})))
    check_bd_objective(plan, composed.codecs)
    results = evaluate(composed)
    return JobResult(0 if results.complete else 1, bd_objective(results, plan), (RESULTS_JSON,))


def evaluate(composed: DictConfig) -> Results:
    """Build and run the evaluation that a composed configuration describes."""
    config = _checked(composed)
    folder = Path(HydraConfig.get().runtime.output_dir)
    device = choose_device(config.device)
    devices = check_devices(config.devices, device)
    plain = OmegaConf.to_container(composed)
    console = Console(stderr=True)
    with ExitStack() as stack:
        pool = stack.enter_context(CodecPool(workers=_num_workers(config, 1)))
        with console.status("loading the task and the dataset"):
            evaluation = build_evaluation(config, plain, folder, pool, device)
        if devices > 1:
            resolved = OmegaConf.to_container(composed, resolve=True)
            build_share = partial(_build_share, resolved, plain, folder, device)
            evaluation.sharers = partial(Sharers, build_share, devices)
        show = stack.enter_context(_progress(console))
        results = evaluation.run(show)
    if evaluation.changed:
        listed = "; ".join(evaluation.changed[:MAX_CHANGED])
        more = len(evaluation.changed) - MAX_CHANGED
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"note: earlier records in {folder} do not match and were not used: {listed}"
            + (f"; and {more} more" if more > 0 else ""),
            markup=False,
        )
    print_results(results, folder)
    return results


def check_devices(devices: int, device: torch.device) -> int:
    """Validate the number of processes.

    Raises:
        ArgumentError: If it is below 1 or above the number of GPUs.
    """
    if devices < 1:
        raise ArgumentError("devices", expected="a whole number of at least 1", got=devices)
    if devices > 1 and device.type == "cuda":
        if str(device) != "cuda":
            raise ArgumentError(
                "device",
                expected=f"cuda or cpu with devices={devices}, because each process selects its own GPU",
                got=str(device),
            )
        if devices > torch.cuda.device_count():
            raise ArgumentError(
                "devices",
                expected=f"at most {torch.cuda.device_count()}, the GPUs of this machine",
                got=devices,
            )
    return devices


def _num_workers(config: DictConfig, devices: int) -> int:
    """Return the number of codec threads per process."""
    given: int | None = config.workers
    return given if given is not None else max(1, (os.cpu_count() or 1) // devices)


def _build_share(
    content: Any,  # noqa: ANN401  plain JSON values
    plain: object,
    folder: Path,
    device: torch.device,
    number: int,
) -> Evaluation:
    """Rebuild the evaluation in a worker process.

    Args:
        content: Resolved configuration as plain values.
        plain: Configuration as composed, with interpolations, for the provenance.
        folder: Folder of the run.
        device: Device of the task; with CUDA, each process uses the GPU of its own number.
        number: Number of the process.
    """
    config = _checked(OmegaConf.create(content))
    pool = CodecPool(workers=_num_workers(config, config.devices))
    own = torch.device("cuda", number) if device.type == "cuda" else device
    return build_evaluation(config, plain, folder, pool, own)


def _checked(composed: Any) -> DictConfig:  # noqa: ANN401  OmegaConf's
    config = OmegaConf.merge(OmegaConf.structured(EvaluateConfig), composed)
    assert isinstance(config, DictConfig)
    return config


def build_evaluation(
    config: DictConfig, plain: object, folder: Path, pool: CodecPool, device: torch.device
) -> Evaluation:
    """Build the evaluation that a configuration describes.

    Args:
        config: Configuration with the schema `EvaluateConfig`.
        plain: Configuration as plain values, for the provenance.
        folder: Folder for records and results.
        pool: Codec threads.
        device: Device of the task.
    """
    if device.type == "cpu":
        # One image per thread is faster than one operation on all threads, and results do not depend on
        # cores.
        torch.set_num_threads(1)
    codecs = {name: build_codecs(name, plan) for name, plan in config.codecs.items()}
    task: Task = build("task", config.task, Task).to(device)
    dataset = build("data", config.data, ImageDataModule).test_dataset
    preprocessors = {
        name: build_preprocessors(name, plan, config.preprocessor, codecs[name])
        for name, plan in config.codecs.items()
    }
    if not isinstance(dataset, ImageDataset):
        raise ArgumentError("data.test", expected="an ImageDataset to evaluate on", got=dataset)
    systems = [
        system
        for name, plan in config.codecs.items()
        for system in build_pipelines(name, plan, codecs[name], preprocessors[name], task)
    ]
    return Evaluation(
        config.name,
        task,
        dataset,
        systems,
        folder=folder,
        pool=pool,
        labels=config.labels,
        pseudo_score=config.pseudo_score,
        examples=config.examples,
        bootstrap=config.bootstrap,
        config=plain,
    )


@contextmanager
def _progress(console: Console) -> Iterator[Any]:
    """Yield a progress callback that draws one bar per operating point."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def show(point: str, done: int, total: int) -> None:
            if point not in tasks:
                tasks[point] = bars.add_task(point, total=total)
            bars.update(tasks[point], completed=done)

        yield show


def print_results(results: Results, folder: Path) -> None:
    """Print the points as a table on standard output, and skipped images and notes on standard error."""
    names = list(next(iter(results.originals.values())))[:2]
    table = Table(title=f"{results.name}: {results.task['name']}, {results.data['num_images']} images")
    for column in ("codec", "quality", "labels", "images", "bpp", "PSNR", "MS-SSIM", *names):
        table.add_column(column, justify="left" if column in ("codec", "labels") else "right")
    for kind, accuracy in results.originals.items():
        count = next((str(point.num_images) for point in results.points if point.labels == kind), "")
        table.add_row(
            "original", "", kind, count, "", "", "", *(_number(accuracy[name], 4) for name in names)
        )
    for point in results.points:
        values = (_number(point.accuracy[name], 4) for name in names)
        measured = (_number(point.bpp, 4), _number(point.psnr, 2), _number(point.ms_ssim, 4))
        counts = (f"{point.quality:g}", point.labels, str(point.num_images))
        table.add_row(point.system, *counts, *measured, *values)
    Console(width=None if sys.stdout.isatty() else 120, markup=False).print(table)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    for note in results.notes:
        console.print(f"note: {printable(note)}", markup=False)
    for problem in results.problems:
        console.print(f"label corrected or skipped: {printable(problem)}", markup=False)
    for failure in results.failures:
        where = f"{failure.image_id} at {failure.point}" if failure.point else failure.image_id
        console.print(f"skipped: {printable(f'{where}: {failure.error}')}", markup=False)
    if not results.complete:
        left_out = len({failure.image_id for failure in results.failures})
        console.print(
            f"{left_out} images skipped, {len(results.problems)} labels corrected or skipped", markup=False
        )
    console.print(f"results in {folder}; for the curves: vcm report {folder}", markup=False)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
