"""Many runs on one self-contained page: what differs, by how much, how sure that is, and where each run lies."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from metrixkit.comparison import Comparison, Row
from metrixkit.records import Record, changes
from metrixkit.report.comparison import caption, difference_table, how, main_table
from metrixkit.report.comparison_plot import CAPTION, TITLE, comparison_figure
from metrixkit.report.drawing import png
from metrixkit.report.markup import DRAWING, contents, document, picture, safe, section, table, write_text
from metrixkit.report.meanings import GEOMETRY, TOGETHER, in_words
from metrixkit.report.text import format_change, format_value, is_share, lower_is_better


def comparison_page(comparison: Comparison, out_html: str | os.PathLike[str], command: str = "") -> Path:
    """Write the page of ``compare --html``.

    Args:
        comparison: The rows.
        out_html: The page; its folder is made. Links to the runs' own pages are relative to it, so that a folder with
            both can be moved.
        command: What repeats it.

    Returns:
        The path of the page.
    """
    out = Path(out_html)
    drawn = png(comparison_figure(comparison), TITLE, CAPTION, DRAWING, dpi=150)
    differences = difference_table(comparison)
    sections = {
        "Results": table(*_parted(main_table(comparison))) + _meanings(comparison),
        "Differences": f'<p class="soft">{safe(how())}</p>\n{table(*_parted(differences))}' if differences else "",
        "Picture": picture(drawn),
        "What differs": _settings(comparison),
        "Runs": _runs(comparison, out.parent),
        "Left out": table(("folder", "why"), [(str(folder), why) for folder, why in comparison.left_out], names=2)
        if comparison.left_out
        else "",
        "How to repeat it": f'<pre class="wrap">{safe(command)}</pre>' if command else "",
    }
    sections = {title: body for title, body in sections.items() if body}
    runs = sum(len(row.records) for row in comparison.rows)
    title = f"{runs} runs in {len(comparison.rows)} rows" if runs > 1 else "One run"
    opening = [f"<h1>{safe(title)}</h1>", f'<p class="lead">{safe(caption(comparison))}</p>']
    opening += [
        f'<p class="plain">{safe(plain_sentence(comparison))}</p>',
        _notes(comparison),
        contents(list(sections)),
    ]
    return write_text(
        document(title, [*opening, *(section(name, body) for name, body in sections.items())]), out
    )  # fmt: skip


def plain_sentence(comparison: Comparison) -> str:
    """Return which row leads in the first metric, by how much over the reference, and whether that is more than chance
    among the queries.
    """
    name = comparison.metrics[0]
    reference = comparison.rows[comparison.reference]
    able = [row for row in comparison.rows if name in row.metrics]
    leads = min if lower_is_better(name) else max
    best = leads(able, key=lambda row: row.metrics[name].mean)
    value = format_value(name, best.metrics[name].mean)
    if len(able) == 1:
        return f"{best.label}: {name} is {value}{_over(best)}."
    others = [row for row in able if row is not reference]
    if best is not reference and name in reference.metrics:
        lead = f"The best row, {best.label}, has a {name} of {value}{_over(best)}"
        return f"{lead}, {_gap(name, best, reference)} {reference.label}{_sure(name, best)}."
    lead = f"The reference, {reference.label}, is the best row: {name} {value}{_over(best)}"
    if best is not reference or not others:
        return f"The best row, {best.label}, has a {name} of {value}{_over(best)}."
    second = leads(others, key=lambda row: row.metrics[name].mean)
    return f"{lead}; next is {second.label}, {_gap(name, second, reference)} it{_sure(name, second)}."


def _gap(name: str, row: Row, reference: Row) -> str:
    change = row.metrics[name].mean - reference.metrics[name].mean
    if change == 0:
        return "level with"
    size = format_change(name, abs(change)).lstrip("+") + (" points" if is_share(name) else "")
    return f"{size} {'above' if change > 0 else 'below'}"


def _over(row: Row) -> str:
    count = len(row.records)
    return f" (mean of {count} runs)" if count > 1 else " (a single run)"


def _sure(name: str, row: Row) -> str:
    interval = row.differences.get(name)
    if interval is None:
        return ""
    between = f"{format_change(name, interval.low)} to {format_change(name, interval.high)}"
    if interval.low > 0 or interval.high < 0:
        return f" (95 % interval over queries {between})"
    return f" (95 % interval over queries {between}: it holds zero, so this may be chance)"


def _parted(lines: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    return lines[0], lines[1:]


def _notes(comparison: Comparison) -> str:
    return "\n".join(f'<p class="note">{safe(note)}</p>' for note in comparison.notes)


def _meanings(comparison: Comparison) -> str:
    rows = [(name, words) for name in comparison.metrics if (words := in_words(name))]
    lines = [f"<tr><td>{safe(name)}</td><td>{safe(words)}</td></tr>" for name, words in rows]
    together = f'<p class="soft">{TOGETHER}</p>' if any(name in GEOMETRY for name in comparison.metrics) else ""
    return f'\n<div class="scroll"><table>{"".join(lines)}</table></div>\n{together}' if lines else ""


def _settings(comparison: Comparison) -> str:
    """Return the settings that set each row apart, one a line."""
    if len(comparison.rows) < 2:
        return ""
    changed = changes([row.records[0].config for row in comparison.rows])
    lines = ["<tr><th>row</th><th>its own settings; all others are the same in every row</th></tr>"]
    for row, words in zip(comparison.rows, changed, strict=True):
        own = "<br>".join(safe(word) for word in words) or "–"
        lines.append(f"<tr><td>{safe(row.label)}</td><td>{own}</td></tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _runs(comparison: Comparison, start: Path) -> str:
    """Return one line a run, linked to its own page where it has one."""
    names = [name for name in comparison.metrics if any(name in row.metrics for row in comparison.rows)]
    head = "".join(f'<th class="number">{safe(name)}</th>' for name in names)
    lines = [f'<tr><th>row</th><th>run</th><th class="number">seed</th>{head}<th class="number">seconds</th></tr>']
    for row in comparison.rows:
        for record in row.records:
            metrics = record.metrics()
            cells = [str(record.seed), *(format_value(n, metrics[n]) if n in metrics else "–" for n in names)]
            cells.append(_seconds(record))
            numbers = "".join(f'<td class="number">{safe(cell)}</td>' for cell in cells)
            lines.append(f"<tr><td>{safe(row.label)}</td><td>{_link(record.folder, start)}</td>{numbers}</tr>")
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _seconds(record: Record) -> str:
    seconds = record.results.get("seconds")
    training = seconds.get("training") if isinstance(seconds, dict) else None
    return f"{training:.0f}" if isinstance(training, int | float) else "–"


def _link(folder: Path, start: Path) -> str:
    page = folder / "report.html"
    name = safe(folder.resolve().name)
    if not page.is_file():
        return name
    target = Path(os.path.relpath(page.resolve(), start.resolve())).as_posix()
    # Every sign that means something in an address is escaped; a colon in the first part would name a scheme.
    return f'<a href="./{safe(quote(target))}">{name}</a>'
