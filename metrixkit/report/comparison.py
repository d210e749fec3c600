"""The table of many runs, on the screen and as CSV, Markdown and LaTeX."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable

from metrixkit.comparison import Comparison, Row, Spread
from metrixkit.paired import RESAMPLES
from metrixkit.report.text import format_change, is_share
from metrixkit.spreadsheet import cell as safe_cell
from metrixkit.visible import one_line

Table = list[list[str]]  # the head, then one line a row


def main_table(comparison: Comparison) -> Table:
    """Return one line a row: runs, mean ± deviation of each metric, the first metric before training, seconds.

    Shares are in percent. A metric that only some of a row's runs have says of how many it is.
    """
    first = comparison.metrics[0]
    head = ["row", "n", *(_title(name) for name in comparison.metrics), f"{_title(first)} before", "seconds"]
    lines = [
        [
            row.label + (" (reference)" if index == comparison.reference and len(comparison.rows) > 1 else ""),
            str(len(row.records)),
            *(_cell(name, row.metrics.get(name), len(row.records)) for name in comparison.metrics),
            _cell(first, row.before.get(first), len(row.records)),
            _seconds(row.seconds),
        ]
        for index, row in enumerate(comparison.rows)
    ]
    return [head, *lines]


def difference_table(comparison: Comparison) -> Table:
    """Return one line a row but the reference: difference in each metric, with the interval where there is one.

    Empty where there is only one row.
    """
    reference = comparison.rows[comparison.reference]
    lines = [
        [row.label, *(_difference(name, row, reference) for name in comparison.metrics)]
        for row in comparison.rows
        if row is not reference
    ]
    return [[f"less {reference.label}", *(_title(name) for name in comparison.metrics)], *lines] if lines else []


def caption(comparison: Comparison) -> str:
    """Return what the numbers are of, in one sentence."""
    about = ", ".join(f"{key} {value}" for key, value in comparison.facts.items())
    return f"{about}. Mean ± standard deviation (n - 1) over n seeds; shares in percent."


def how() -> str:
    """Return how the intervals were made."""
    return (
        f"Differences; in brackets 95 % of a paired bootstrap over queries ({RESAMPLES:,} resamples), hits averaged "
        "over seeds."
    )


def as_text(comparison: Comparison) -> str:
    """Return everything for the screen: the tables, what must be said, and what was left out."""
    parts = [caption(comparison), "", _aligned(main_table(comparison))]
    differences = difference_table(comparison)
    if differences:
        parts += ["", how(), "", _aligned(differences)]
    if comparison.notes:
        parts += ["", *(f"note: {note}" for note in comparison.notes)]
    if comparison.left_out:
        parts += ["", f"left out: {len(comparison.left_out)}"]
        parts += [f"  {folder}: {why}" for folder, why in comparison.left_out]
    return "\n".join(parts)


def as_markdown(comparison: Comparison) -> str:
    """Return the tables in Markdown, each with its sentence."""
    parts = [_escaped(caption(comparison)), _pipes(main_table(comparison))]
    differences = difference_table(comparison)
    if differences:
        parts += [_escaped(how()), _pipes(differences)]
    if comparison.notes:
        parts.append("\n".join(f"- {_escaped(note)}" for note in comparison.notes))
    return "\n\n".join(parts) + "\n"


def as_latex(comparison: Comparison) -> str:
    """Return the tables as LaTeX ``tabular`` environments that need no package; sentences are comments."""
    parts = [f"% {one_line(caption(comparison))}", _tabular(main_table(comparison))]
    differences = difference_table(comparison)
    if differences:
        parts += [f"% {how()}", _tabular(differences)]
    return "\n".join([*parts, *(f"% {one_line(note)}" for note in comparison.notes)]) + "\n"


def as_csv(comparison: Comparison) -> str:
    """Return one line a row with full precision (fractions, as in result files), for further computing.

    Columns: row, reference, n, seeds, for each metric its mean, sd, n, before, difference, low and high; seconds; the
    run folders. What does not exist is empty.
    """
    reference = comparison.rows[comparison.reference]
    kinds = ("mean", "sd", "n", "before", "difference", "low", "high")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["row", "reference", "n", "seeds"]
        + [safe_cell(f"{name}/{kind}") for name in comparison.metrics for kind in kinds]
        + ["seconds/mean", "seconds/sd", "folders"]
    )
    for row in comparison.rows:
        cells: list[object] = [row.label, int(row is reference), len(row.records)]
        cells.append(" ".join(str(record.seed) for record in row.records))
        for name in comparison.metrics:
            values, before = row.metrics.get(name), row.before.get(name)
            interval = row.differences.get(name)
            cells += [values.mean, values.sd, values.n] if values else [None, None, 0]
            cells.append(before.mean if before else None)
            cells.append(_gap(name, row, reference))
            cells += [interval.low, interval.high] if interval else [None, None]
        cells += [row.seconds.mean, row.seconds.sd] if row.seconds else [None, None]
        cells.append(" ".join(str(record.folder) for record in row.records))
        writer.writerow(["" if cell is None else safe_cell(cell) for cell in cells])
    return out.getvalue()


def _title(name: str) -> str:
    return f"{name} %" if is_share(name) else name


def _cell(name: str, spread: Spread | None, runs: int) -> str:
    if spread is None:
        return "–"
    scale, digits = (100, 1) if is_share(name) else (1, 3)
    text = f"{scale * spread.mean:.{digits}f}"
    if spread.sd is not None:
        text += f" ± {scale * spread.sd:.{digits}f}"
    return text if spread.n == runs else f"{text} (n={spread.n})"


def _seconds(spread: Spread | None) -> str:
    if spread is None:
        return "–"
    return f"{spread.mean:.0f}" + (f" ± {spread.sd:.0f}" if spread.sd is not None else "")


def _gap(name: str, row: Row, reference: Row) -> float | None:
    if row is reference or name not in row.metrics or name not in reference.metrics:
        return None
    return row.metrics[name].mean - reference.metrics[name].mean


def _difference(name: str, row: Row, reference: Row) -> str:
    gap = _gap(name, row, reference)
    if gap is None:
        return "–"
    interval = row.differences.get(name)
    if interval is None:
        return format_change(name, gap)
    return f"{format_change(name, gap)} [{format_change(name, interval.low)}, {format_change(name, interval.high)}]"


def _aligned(table: Table) -> str:
    table = [[one_line(cell) for cell in line] for line in table]
    wide = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(wide[0]), *(c.rjust(w) for c, w in zip(line[1:], wide[1:], strict=True))])
        for line in table
    )


def _pipes(table: Table) -> str:
    lines = ["| " + " | ".join(_escaped(cell) for cell in line) + " |" for line in table]
    rule = "|---|" + "---:|" * (len(table[0]) - 1)
    return "\n".join([lines[0], rule, *lines[1:]])


def _escaped(text: str) -> str:
    # A bracket alone is one of an interval; before a parenthesis it would end a link.
    return re.sub(r"([|*_`<\\]|(?<=\])\()", r"\\\1", one_line(text))


def _tabular(table: Table) -> str:
    lines = [" & ".join(_latex(cell) for cell in line) + r" \\" for line in table]
    columns = "l" + "r" * (len(table[0]) - 1)
    return "\n".join(
        [rf"\begin{{tabular}}{{{columns}}}", r"\hline", lines[0], r"\hline", *lines[1:], r"\hline", r"\end{tabular}"]
    )


_LATEX = {
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\\": r"\textbackslash{}",
    "<": r"$<$",
    ">": r"$>$",
    "±": r"$\pm$",
    "–": "--",
}


def _latex(text: str) -> str:
    text = "".join(_LATEX.get(sign, sign) for sign in one_line(text))
    # A sign before a digit is a minus, not a hyphen.
    return re.sub(r"(^|\[|, )([+-][\d.]+)", r"\1$\2$", text)


WRITERS: dict[str, Callable[[Comparison], str]] = {"csv": as_csv, "markdown": as_markdown, "latex": as_latex}
