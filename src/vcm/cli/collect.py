"""`vcm collect`: join the jobs of sweeps into one report and one table."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vcm.cli.objectives import Objective
from vcm.cli.sweeps import JOB_FILE, PLAN_FILE, JobRecord, Plan
from vcm.errors import ArgumentError, EvaluationError, OutputError
from vcm.files import printable

if TYPE_CHECKING:
    from vcm.evaluation.report import SweptRun

POINTS_CSV, JOBS_CSV = "points.csv", "jobs.csv"
_RESULTS_JSON = "results.json"


@dataclass(frozen=True)
class Job:
    """One job of a sweep, or a single run.

    Attributes:
        folder: Folder of the job; may not exist.
        command: "evaluate" or "train".
        overrides: Override values by setting.
        problem: Why the job has no results; empty if it has.
        objective: Objective value of the job, if any.
    """

    folder: Path
    command: str
    overrides: Mapping[str, str]
    problem: str = ""
    objective: Objective | None = None


def run(arguments: Sequence[str]) -> int:
    """Write report.html, plots/, points.csv and jobs.csv.

    Returns:
        0 if all jobs are done, 1 if some are missing or failed, 2 if none is done.
    """
    parser = argparse.ArgumentParser(
        prog="vcm collect",
        description="Join the jobs of sweeps into one report, one CSV file of operating points and one of "
        "jobs. Jobs with one operating point each, such as one model per λ, become one curve.",
        epilog="exit status: 0 all jobs done, 1 some jobs missing or failed, 2 no job done",
    )
    parser.add_argument(
        "folders", nargs="+", type=Path, metavar="RUNS", help="folder of a sweep, or of several runs"
    )
    parser.add_argument(
        "--along",
        metavar="SETTING",
        help="swept setting that varies along a curve, such as module.lmbda; default: the only setting that "
        "differs between jobs, or the only numeric one",
    )
    parser.add_argument(
        "--anchor", help="reference codec of the BD-rates; default: bpg if there is one, else the first codec"
    )
    parser.add_argument("--accuracy", help="metric to plot, such as map_50; default: the task's main metric")
    parser.add_argument("--output", type=Path, help="output folder; default: the first RUNS")
    known = parser.parse_args(arguments)
    jobs = find_jobs(known.folders)
    done = [job for job in jobs if not job.problem]
    output = known.output or known.folders[0]
    swept = _swept(jobs)
    write_jobs(output / JOBS_CSV, jobs, known.folders, swept)
    if evaluated := [job for job in done if job.command == "evaluate"]:
        report(evaluated, known, output, _swept(evaluated))
    print(printable((output / JOBS_CSV).resolve()))
    problems = [job for job in jobs if job.problem]
    if problems:
        print(f"vcm collect: {len(problems)} of {len(jobs)} jobs are missing or failed:", file=sys.stderr)
    for job in problems:
        what = " ".join(f"{key}={job.overrides[key]}" for key in swept if key in job.overrides)
        print(printable(f"  {what or 'a run'}: {job.problem} ({job.folder})"), file=sys.stderr)
    return 2 if not done else 1 if problems else 0


def find_jobs(folders: Sequence[Path]) -> list[Job]:
    """Find all jobs below some folders, including planned jobs that never ran.

    Raises:
        EvaluationError: If there are no jobs.
    """
    jobs: dict[Path, Job] = {}
    for given in folders:
        for parent, _, files in sorted(os.walk(given)):
            folder = Path(parent)
            plan = Plan.read(folder) if PLAN_FILE in files else None
            for name, overrides in (plan.jobs if plan else {}).items():
                problem = "it did not finish" if (folder / name).is_dir() else "it was not run"
                command = plan.command if plan else ""
                jobs[folder / name] = Job(folder / name, command, _values(overrides), problem)
            if JOB_FILE in files:
                jobs[folder] = _ended(folder, has_results=_RESULTS_JSON in files)
            elif _RESULTS_JSON in files and folder not in jobs:
                jobs[folder] = Job(folder, "evaluate", {})
    if not jobs:
        raise EvaluationError(
            f"No jobs found below {', '.join(printable(folder) for folder in folders)}. Run "
            "`vcm evaluate --multirun` or `vcm train --multirun` first, then pass its sweep folder."
        )
    return list(jobs.values())


def _ended(folder: Path, *, has_results: bool) -> Job:
    record = JobRecord.read(folder / JOB_FILE)
    problem = record.error or "it failed" if record.status not in (0, 1) else ""
    if not problem and (gone := [name for name in record.outputs if not (folder / name).is_file()]):
        problem = f"{gone[0]} no longer exists"
    command = "evaluate" if has_results else "train"
    return Job(folder, command, _values(record.overrides), problem, record.objective)


def _values(overrides: Iterable[str]) -> dict[str, str]:
    parts = [override.lstrip("+").partition("=") for override in overrides]
    return {key: value for key, _, value in parts}


def _swept(jobs: Sequence[Job]) -> list[str]:
    """Return the settings that differ between jobs."""
    names = dict.fromkeys(name for job in jobs for name in job.overrides)
    return [name for name in names if len({job.overrides.get(name) for job in jobs}) > 1]


def report(jobs: Sequence[Job], known: argparse.Namespace, output: Path, swept: Sequence[str]) -> None:
    """Write points.csv and one report per task and dataset; print their paths and the BD-rates.

    Args:
        jobs: Completed evaluations.
        known: Arguments of the command.
        output: Output folder.
        swept: Settings that differ between the jobs.
    """
    from vcm.cli.report import print_bd_rates
    from vcm.evaluation.report import Source, SweptRun, join_runs, make_study, write_report
    from vcm.evaluation.results import Results

    runs = [
        SweptRun(
            Source(job.folder, Results.read(job.folder), "", False),
            {name: job.overrides[name] for name in swept if name in job.overrides},
        )
        for job in jobs
    ]
    groups: dict[str, list[SweptRun]] = {}
    for run in runs:
        results = run.source.results
        groups.setdefault(repr((results.task, results.data, results.pseudo_score)), []).append(run)
    rows: list[dict[str, Any]] = []
    if known.along not in (None, *swept):
        raise ArgumentError("--along", expected=f"one of {', '.join(swept)}", got=known.along)
    for number, group in enumerate(groups.values(), start=1):
        sources = join_runs(group, known.along)
        task = str(sources[0].results.task["name"])
        home = output if len(groups) == 1 else output / f"{task}-{number}"
        study = make_study(sources, home, anchor=known.anchor, accuracy=known.accuracy)
        path = write_report(study)
        print_bd_rates(study)
        print(printable(path.resolve()))
        rows += _rows(sources, jobs, known.folders, swept)
    _write_rows(output / POINTS_CSV, rows)
    print(printable((output / POINTS_CSV).resolve()))


def _rows(
    sources: Sequence[Any], jobs: Sequence[Job], folders: Sequence[Path], swept: Sequence[str]
) -> list[dict[str, Any]]:
    """Return one row per operating point, with the swept settings of its job."""
    from vcm.evaluation.results import point_row

    overrides = {job.folder: job.overrides for job in jobs}
    return [
        {
            "run": _run_name(source.folder, folders),
            "task": source.results.task["name"],
            **{name: overrides[source.folder].get(name) for name in swept},
            **point_row(point),
            "title": point.title,
        }
        for source in sources
        for point in source.results.points
    ]


def write_jobs(path: Path, jobs: Sequence[Job], folders: Sequence[Path], swept: Sequence[str]) -> None:
    """Write one row per job: swept settings, objective and problem."""
    rows = [
        {
            "run": _run_name(job.folder, folders),
            **{name: job.overrides.get(name) for name in swept},
            "objective": None if job.objective is None else job.objective.name,
            "value": None if job.objective is None else job.objective.value,
            "problem": job.problem,
        }
        for job in jobs
    ]
    _write_rows(path, rows)


def _run_name(folder: Path, folders: Sequence[Path]) -> str:
    """Return the path of a run relative to the folder given on the command line."""
    for given in folders:
        if folder.is_relative_to(given):
            return folder.relative_to(given).as_posix() if folder != given else folder.name
    return str(folder)


def _write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    from vcm.evaluation.results import write_csv

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"Cannot create {path.parent}: {error.strerror}. Choose another --output."
        ) from error
    write_csv(path, list(rows))
