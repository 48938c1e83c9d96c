"""An evaluation's results as one HTML file, and its plots as SVG and PNG."""

from vcm.evaluation.report.build import build_report

__all__ = ["build_report"]
