"""Metrics as people read them on the screen."""

from __future__ import annotations

from collections.abc import Mapping

# Not shares: no percent.
PLAIN = (
    "utilization",
    "uniformity",
    "alignment",
    "loss",
    "nll",
    "median_rank",
    "mean_rank",
    "mae",
    "pearson",
    "intra_class_similarity",
)


def is_share(name: str) -> bool:
    """Return whether a metric is a share, written as a fraction in files and in percent on the screen."""
    return not any(part.startswith(PLAIN) for part in name.split("/"))


def lower_is_better(name: str) -> bool | None:
    """Return whether a smaller value of a metric is the better one; None where neither is (alignment, utilization)."""
    last = name.split("/")[-1]
    if last.startswith(("utilization", "alignment", "uniformity")):
        return None
    return last.startswith(("nll", "ece", "mae")) or last.endswith(("mean_rank", "median_rank"))


def format_value(name: str, value: float) -> str:
    """Return "63.2 %" for a share, three decimals for utilization, uniformity, alignment, losses, one for ranks."""
    if is_share(name):
        return f"{100 * value:.1f} %"
    return f"{value:.1f}" if name.endswith("_rank") else f"{value:.3f}"


def format_table(metrics: Mapping[str, float], before: Mapping[str, float] | None = None) -> str:
    """Return metrics as lines for the screen, one each, names to the left and values aligned.

    Args:
        metrics: Name to value: fractions, as in files.
        before: The values before training, shown with the change where the names agree.

    Returns:
        Text without a final newline. An optimistic value that ties set apart follows its metric in brackets.
    """
    names = [name for name in metrics if not name.endswith("/optimistic")]
    rows = []
    for name in names:
        row = [name, format_value(name, metrics[name])]
        if before is not None and name in before:
            row.append(
                f"before {format_value(name, before[name])}, {format_change(name, metrics[name] - before[name])}"
            )
        optimistic = metrics.get(f"{name}/optimistic")
        if optimistic is not None:
            row.append(f"({format_value(name, optimistic)} if ties are won)")
        rows.append(row)
    wide = max((len(row[0]) for row in rows), default=0)
    right = max((len(row[1]) for row in rows), default=0)
    return "\n".join("   ".join([row[0].ljust(wide), row[1].rjust(right), *row[2:]]) for row in rows)


def format_change(name: str, change: float) -> str:
    """Return a signed difference: points of percent for shares ("+3.1"), plain otherwise."""
    return f"{100 * change:+.1f}" if is_share(name) else f"{change:+.3f}"
