"""What people look at: retrieval panels, curves, maps, one HTML page a run, tables for the screen."""

from metrixkit.report.curves import read_metrics, training_curves
from metrixkit.report.map import embedding_map
from metrixkit.report.mixed import Mixture, mixed_examples
from metrixkit.report.page import write_report
from metrixkit.report.panel import nearest_is_right, retrieval_panel
from metrixkit.report.similarities import similarity_histogram
from metrixkit.report.text import format_table, format_value

__all__ = [
    "Mixture",
    "embedding_map",
    "format_table",
    "format_value",
    "mixed_examples",
    "nearest_is_right",
    "read_metrics",
    "retrieval_panel",
    "similarity_histogram",
    "training_curves",
    "write_report",
]
