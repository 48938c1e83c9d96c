"""An evaluation's results as one HTML file, and its plots as SVG and PNG."""

from vcm.evaluation.report.build import build_report, write_report
from vcm.evaluation.report.study import Study, read_study

__all__ = ["Study", "build_report", "read_study", "write_report"]
