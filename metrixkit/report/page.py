"""One self-contained HTML page a run, made from its result files alone."""

from __future__ import annotations

import base64
import html
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metrixkit.errors import InputError
from metrixkit.report.curves import training_curves
from metrixkit.report.text import format_change, format_value

STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2.5rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .2rem; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
.lead { opacity: .7; margin: 0 0 1.2rem; }
.note { border-left: 4px solid #c0392b; padding: .5rem .9rem; background: color-mix(in srgb, #c0392b 9%, transparent); }
.note.good { border-color: #1a8f3c; background: color-mix(in srgb, #1a8f3c 9%, transparent); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem 1.1rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; }
td.number, th.number { text-align: right; }
.scroll { overflow-x: auto; }
pre { background: color-mix(in srgb, currentColor 6%, transparent); padding: .8rem 1rem; overflow-x: auto;
  border-radius: 6px; font: 13px/1.45 ui-monospace, monospace; }
dt { font-weight: 600; margin-top: .6rem; } dd { margin: 0; }
figure { margin: 0 0 1.5rem; } figcaption { opacity: .7; font-size: .9rem; }
img { max-width: 100%; height: auto; background: white; border-radius: 4px; }
"""


def write_report(run_dir: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` of a run folder: results, pictures, definitions, counts, configuration, how to repeat it.

    Reads ``results.json``, ``metrics.jsonl``, ``config.yaml`` and ``pictures/*.png``; what is missing is left out.
    Curves are drawn into ``pictures/curves.png`` from ``metrics.jsonl``. The page holds its pictures and loads nothing.

    Args:
        run_dir: The run folder.

    Returns:
        The path of the page.

    Raises:
        InputError: No such folder, or a result file that cannot be read.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such run folder.")
    results = _read_json(folder / "results.json")
    if (folder / "metrics.jsonl").is_file():
        training_curves(folder / "metrics.jsonl", folder / "pictures" / "curves.png")
    sections = [
        _heading(folder.resolve().name, results),
        _verdict(results),
        _results(results),
        _pictures(folder / "pictures"),
        _list("Counts", results.get("counts"), "What the numbers rest on."),
        _definitions(results.get("definitions")),
        _repeat(results),
        _config(folder / "config.yaml"),
    ]
    page = "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{_safe(folder.resolve().name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            *(section for section in sections if section),
            "</body>\n</html>\n",
        ]
    )
    out = folder / "report.html"
    part = folder / "report.html.part"
    part.write_text(page, encoding="utf-8")
    os.replace(part, out)
    return out


def headline(metrics: Mapping[str, float]) -> str | None:
    """Return the name of the metric that a run is judged by: its first recall@1, else its first metric."""
    return next((name for name in metrics if name.endswith("recall@1")), next(iter(metrics), None))


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is not JSON ({error}). Evaluate the run again to write it anew.") from error
    if not isinstance(read, dict):
        raise InputError(f"{path}: expected an object with metrics, counts, ...; found {type(read).__name__}.")
    return read


def _safe(value: Any) -> str:
    return html.escape(str(value))


def _metrics(results: Mapping[str, Any], key: str) -> dict[str, float]:
    found = results.get(key)
    found = found.get("metrics", found) if isinstance(found, Mapping) else {}
    return {name: float(v) for name, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}


def _heading(name: str, results: Mapping[str, Any]) -> str:
    about = [
        str(results[key]) if key != "protocol" else f"protocol {results[key]}"
        for key in ("data", "split", "protocol")
        if results.get(key)
    ]
    lead = f'<p class="lead">{_safe(" · ".join(about))}</p>' if about else ""
    return f"<h1>{_safe(name)}</h1>\n{lead}"


def _verdict(results: Mapping[str, Any]) -> str:
    """Say plainly whether training won or lost against the model before its first step."""
    chosen, before = _metrics(results, "metrics"), _metrics(results, "before")
    name = headline(chosen)
    if name is None:
        return ""
    value = format_value(name, chosen[name])
    if name not in before:
        return f'<p class="note good">{_safe(name)}: {value}.</p>'
    change, was = chosen[name] - before[name], format_value(name, before[name])
    how = format_change(name, change)
    if change < 0:
        text = f"Training lost: {name} fell from {was} before the first step to {value} ({how} points)."
    elif change == 0:
        text = f"Training changed nothing: {name} is {value}, as before the first step."
    else:
        return f'<p class="note good">{_safe(name)} rose from {was} before training to {value} ({how} points).</p>'
    return f'<p class="note"><strong>{_safe(text)}</strong></p>'


def _results(results: Mapping[str, Any]) -> str:
    chosen = results.get("selected") or "selected"
    columns = [("before training", "before"), (f"selected ({chosen})", "metrics"), ("last epoch", "last")]
    filled = [(title, found) for title, key in columns if (found := _metrics(results, key))]
    if not filled:
        return ""
    names = list(dict.fromkeys(name for _, found in filled for name in found))
    head = "".join(f'<th class="number">{_safe(title)}</th>' for title, _ in filled)
    rows = "\n".join(
        f"<tr><td>{_safe(name)}</td>"
        + "".join(
            f'<td class="number">{format_value(name, found[name]) if name in found else "–"}</td>'
            for _, found in filled
        )
        + "</tr>"
        for name in names
    )
    return f'<h2>Results</h2>\n<div class="scroll"><table>\n<tr><th>metric</th>{head}</tr>\n{rows}\n</table></div>'


def _pictures(folder: Path) -> str:
    parts = []
    for path in sorted(folder.glob("*.png"), key=lambda p: (p.stem != "curves", p.name)):
        code = base64.b64encode(path.read_bytes()).decode("ascii")
        title = _safe(path.stem.replace("_", " "))
        parts.append(
            f'<figure><img alt="{title}" src="data:image/png;base64,{code}"><figcaption>{title}</figcaption></figure>'
        )
    return "<h2>Pictures</h2>\n" + "\n".join(parts) if parts else ""


def _list(title: str, values: Any, lead: str = "") -> str:
    if not isinstance(values, Mapping) or not values:
        return ""
    rows = "\n".join(
        f'<tr><td>{_safe(name)}</td><td class="number">{_safe(_number(value))}</td></tr>'
        for name, value in values.items()
    )
    return (
        f'<h2>{_safe(title)}</h2>\n<p class="lead">{_safe(lead)}</p>\n<div class="scroll"><table>{rows}</table></div>'
    )


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return json.dumps(value) if isinstance(value, list | dict) else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _definitions(values: Any) -> str:
    if not isinstance(values, Mapping) or not values:
        return ""
    parts = "\n".join(f"<dt>{_safe(name)}</dt><dd>{_safe(text)}</dd>" for name, text in values.items())
    return f"<h2>Definitions</h2>\n<dl>{parts}</dl>"


def _repeat(results: Mapping[str, Any]) -> str:
    command, parts = results.get("command"), []
    if command:
        line = command if isinstance(command, str) else " ".join(map(str, command))
        parts.append(f"<pre>{_safe(line)}</pre>")
    facts = {key: results[key] for key in ("seed", "seconds") if results.get(key) is not None}
    if isinstance(facts.get("seconds"), Mapping):
        facts |= {f"seconds {name}": value for name, value in facts.pop("seconds").items()}
    versions = results.get("versions")
    facts |= versions if isinstance(versions, Mapping) else {}
    rows = "\n".join(
        f"<tr><td>{_safe(name)}</td><td>{_safe(value if name == 'seed' else _number(value))}</td></tr>"
        for name, value in facts.items()
    )
    parts += [f'<div class="scroll"><table>{rows}</table></div>'] if rows else []
    return "<h2>How to repeat it</h2>\n" + "\n".join(parts) if parts else ""


def _config(path: Path) -> str:
    if not path.is_file():
        return ""
    return f"<h2>Configuration</h2>\n<pre>{_safe(path.read_text(encoding='utf-8'))}</pre>"
