"""What people look at: retrieval panels, curves, one HTML page a run, tables for the screen."""

from metrixkit.report.curves import read_metrics, training_curves
from metrixkit.report.page import write_report
from metrixkit.report.panel import retrieval_panel
from metrixkit.report.text import format_table, format_value

__all__ = ["format_table", "format_value", "read_metrics", "retrieval_panel", "training_curves", "write_report"]
