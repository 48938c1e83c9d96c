"""`vcm evaluate`: compose a configuration, build what it names, measure, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from vcm.cli.composition import told_error
from vcm.cli.devices import choose_device
from vcm.cli.job import run_job
from vcm.cli.objectives import bd_objective, check_bd_objective
from vcm.cli.sweeps import JobResult
from vcm.codecs import Codec, CodecPool, FeatureCodec
from vcm.config import BDRateObjective, CodecPlan, EvaluateConfig
from vcm.data import PictureDataModule
from vcm.data.datasets import PictureDataset
from vcm.errors import ArgumentError, EvaluationError, MissingToolError
from vcm.evaluation.encoder import Preprocessor
from vcm.evaluation.evaluate import Evaluation
from vcm.evaluation.features import FeatureSystem
from vcm.evaluation.preprocessing import NPPPreprocessor
from vcm.evaluation.provenance import deciding_versions
from vcm.evaluation.reader import Importance
from vcm.evaluation.results import RESULTS_JSON, Results
from vcm.evaluation.search import ImageSearch
from vcm.evaluation.systems import PictureSystem, System
from vcm.files import printable
from vcm.tasks import Task

MAX_CHANGED = 5
"""Most changed settings that are listed."""
NPP_TARGET = f"{NPPPreprocessor.__module__}.{NPPPreprocessor.__qualname__}"


def run(arguments: Sequence[str]) -> int:
    """Evaluate; with `--multirun`, once for every combination. Returns the worst exit status of them all."""
    return run_job("evaluate", arguments, _run_once, deciding_versions())


def _run_once(composed: DictConfig) -> JobResult:
    plan = dict(OmegaConf.merge(OmegaConf.structured(BDRateObjective), composed.get("objective", {})))
    check_bd_objective(plan, composed.codecs)
    results = evaluate(composed)
    return JobResult(0 if results.complete else 1, bd_objective(results, plan), (RESULTS_JSON,))


def evaluate(composed: DictConfig) -> Results:
    """Build and run the evaluation that a composed configuration describes."""
    config = OmegaConf.merge(OmegaConf.structured(EvaluateConfig), composed)
    folder = Path(HydraConfig.get().runtime.output_dir)
    workers = config.workers if config.workers is not None else os.cpu_count() or 1
    device = choose_device(config.device)
    if device.type == "cpu":
        # One picture a thread beats one operation on all threads, and results do not depend on their number.
        torch.set_num_threads(1)
    codecs = {name: build_codecs(name, plan) for name, plan in config.codecs.items()}
    console = Console(stderr=True)
    with console.status("loading the task and the data set"):
        task: Task = build("task", config.task, Task).to(device)
        dataset = build("data", config.data, PictureDataModule).test_dataset
        preprocessors = {
            name: build_preprocessors(name, plan, config.preprocessor, codecs[name])
            for name, plan in config.codecs.items()
        }
    if not isinstance(dataset, PictureDataset):
        raise ArgumentError("data.test", expected="a data set of pictures to evaluate on", got=dataset)
    with ExitStack() as stack:
        pool = stack.enter_context(CodecPool(workers=workers))
        systems = [
            system
            for name, plan in config.codecs.items()
            for system in build_systems(name, plan, codecs[name], preprocessors[name], task)
        ]
        evaluation = Evaluation(
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
            config=OmegaConf.to_container(composed),
        )
        show = stack.enter_context(_progress(console))
        results = evaluation.run(show)
    if evaluation.changed:
        listed = "; ".join(evaluation.changed[:MAX_CHANGED])
        more = len(evaluation.changed) - MAX_CHANGED
        Console(stderr=True, highlight=False, soft_wrap=True).print(
            f"note: earlier records in {folder} do not fit and were not used: {listed}"
            + (f"; and {more} more" if more > 0 else ""),
            markup=False,
        )
    print_results(results, folder)
    return results


def build(
    name: str, plan: Mapping[str, Any], kind: type | tuple[type, ...] = object, **settings: object
) -> Any:  # noqa: ANN401  a `kind`
    """What the configuration's part called `name` describes.

    Raises:
        ArgumentError: If it describes something else than a `kind`.
    """
    built = instantiate(plan, **settings)
    if not isinstance(built, kind):
        first = kind[0] if isinstance(kind, tuple) else kind
        raise ArgumentError(
            name,
            expected=f"settings whose _target_ gives a {first.__module__}.{first.__name__}",
            got=f"_target_={plan.get('_target_')}",
        )
    return built


def build_systems(
    name: str,
    plan: CodecPlan,
    codecs: Sequence[Codec | FeatureCodec],
    preprocessors: Sequence[Preprocessor | None],
    task: Task,
) -> list[System]:
    """One system a quality.

    Args:
        name: The curve's name.
        plan: The curve.
        codecs: As `build_codecs` gives them.
        preprocessors: As `build_preprocessors` gives them.
        task: The reader.

    Raises:
        ArgumentError: If the curve's settings do not go together.
        EvaluationError: If the importance cannot be built.
    """
    if isinstance(codecs[0], FeatureCodec):
        for option, unused in (("at_reader", False), ("importance", None), ("effort", 0), ("search", None)):
            if (value := getattr(plan, option)) != unused:
                raise ArgumentError(
                    f"codecs.{name}.{option}",
                    expected=f"{str(unused).lower().replace('none', 'null')}: this codec takes no images",
                    got=value,
                )
    try:
        importance, search = _importance(name, plan, task), _search(name, plan, task)
        return [
            FeatureSystem(name, codec, task)
            if isinstance(codec, FeatureCodec)
            else PictureSystem(
                name,
                codec,
                task,
                preprocessor=preprocessor,
                at_reader=plan.at_reader,
                importance=importance,
                search=search,
            )
            for codec, preprocessor in zip(codecs, preprocessors, strict=True)
        ]
    except Exception as error:
        cause = told_error(error)
        if cause is None:
            raise
        raise EvaluationError(f"codecs.{name}: {cause}") from error


def _importance(name: str, plan: CodecPlan, task: Task) -> Importance | None:
    """How QP offsets are made; on the task's device."""
    if plan.importance is None:
        return None
    try:
        importance = Importance(**instantiate(plan.importance))
    except TypeError as error:  # an option that it does not have
        raise EvaluationError(f"codecs.{name}.importance: {error}") from error
    if importance.task is not None:
        importance.task.to(next(task.parameters()).device)
    return importance


def _search(name: str, plan: CodecPlan, task: Task) -> ImageSearch | None:
    """How pixels are refined; on the task's device."""
    try:
        search = ImageSearch(plan.effort, **instantiate(plan.search or {}))
    except TypeError as error:  # an option that it does not have
        raise EvaluationError(f"codecs.{name}.search: {error}") from error
    if not search.effort:
        return None
    if search.task is not None:
        search.task.to(next(task.parameters()).device)
    return search


def build_codecs(name: str, plan: CodecPlan) -> list[Codec | FeatureCodec]:
    """One codec a quality, all of them checked before anything runs.

    Raises:
        EvaluationError: If an option or quality is not what it may be.
        ArgumentError: If no quality is given.
        MissingToolError: If the codec cannot run here.
    """
    if not plan.qualities:
        raise ArgumentError(f"codecs.{name}.qualities", expected="a list of at least one quality", got=[])
    try:
        codecs: list[Codec | FeatureCodec] = [
            build("codec", plan.codec, (Codec, FeatureCodec), quality=quality) for quality in plan.qualities
        ]
    except Exception as error:
        cause = told_error(error)
        if cause is None:
            raise
        raise EvaluationError(f"codecs.{name}: {cause}") from error
    reason = codecs[0].unavailable()
    if reason:
        raise MissingToolError(reason)
    return codecs


def build_preprocessors(
    name: str, plan: CodecPlan, default: Mapping[str, Any] | None, codecs: Sequence[Codec | FeatureCodec]
) -> list[Preprocessor | None]:
    """What changes the pictures before each of a curve's codecs.

    Args:
        name: The curve's name.
        plan: The curve.
        default: How to build the preprocessor of curves without one of their own; None for nothing.
        codecs: One a quality, as `build_codecs` gives them.

    Raises:
        ArgumentError: If the curve's settings do not go together.
        EvaluationError: If a preprocessor cannot be built, or not for a codec's quality.
    """
    wanted = default if plan.preprocessor is None else plan.preprocessor
    takes_rates = wanted is not None and wanted.get("_target_") == NPP_TARGET
    if plan.preprocessor is not None and isinstance(codecs[0], FeatureCodec):
        raise ArgumentError(
            f"codecs.{name}.preprocessor", expected="null: this codec takes no pictures", got=wanted
        )
    if plan.rates is not None and not (takes_rates and len(plan.rates) == len(codecs)):
        raise ArgumentError(
            f"codecs.{name}.rates",
            expected=f"null, or with an NPPPreprocessor a λ for each of the {len(codecs)} qualities",
            got=list(plan.rates),
        )
    if wanted is None or isinstance(codecs[0], FeatureCodec):
        return [None] * len(codecs)
    try:
        if not takes_rates:
            return [build("preprocessor", wanted)] * len(codecs)
        rates = [wanted.get("rate")] * len(codecs) if plan.rates is None else plan.rates
        operating_points = [
            {"rate": rate, "codec": codec.name, "quality": codec.quality}
            for rate, codec in zip(rates, codecs, strict=True)
        ]
        first: NPPPreprocessor = build("preprocessor", wanted, NPPPreprocessor, **operating_points[0])
        return [first, *(first.at(**point) for point in operating_points[1:])]
    except Exception as error:
        cause = told_error(error)
        if cause is None:
            raise
        raise EvaluationError(f"codecs.{name}: {cause}") from error


@contextmanager
def _progress(console: Console) -> Iterator[Any]:
    """A progress callback that draws one bar an operating point."""
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
    """The points as a table on standard output; what was left out on standard error."""
    names = list(next(iter(results.originals.values())))[:2]
    table = Table(title=f"{results.name}: {results.task['name']}, {results.data['num_images']} pictures")
    for column in ("codec", "quality", "labels", "pictures", "bpp", "PSNR", "MS-SSIM", *names):
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
        console.print(f"label mended or left out: {printable(problem)}", markup=False)
    for failure in results.failures:
        where = f"{failure.image_id} at {failure.point}" if failure.point else failure.image_id
        console.print(f"left out: {printable(f'{where}: {failure.error}')}", markup=False)
    if not results.complete:
        left_out = len({failure.image_id for failure in results.failures})
        console.print(
            f"{left_out} pictures left out, {len(results.problems)} labels mended or left out", markup=False
        )
    console.print(f"results in {folder}; for the curves: vcm report {folder}", markup=False)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
