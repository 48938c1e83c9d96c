"""Reports: an evaluation's results as one HTML file, with plots as SVG, PNG and PDF."""

from vcm.evaluation.report.build import build_report, write_report
from vcm.evaluation.report.joining import SweptRun, join_runs
from vcm.evaluation.report.sources import Source
from vcm.evaluation.report.study import Study, make_study, read_study

__all__ = [
    "Source",
    "Study",
    "SweptRun",
    "build_report",
    "join_runs",
    "make_study",
    "read_study",
    "write_report",
]
