"""One self-contained HTML page a run, made from its files alone."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metrixkit.errors import InputError
from metrixkit.foreign import read_json
from metrixkit.report.curves import training_curves
from metrixkit.report.markup import DRAWING, PHOTOGRAPHS, contents, document, picture, safe, section, table, write_text
from metrixkit.report.meanings import GEOMETRY, TOGETHER, exact, in_words
from metrixkit.report.sentence import (
    Interval,
    headline,
    how_sure,
    is_retrieval,
    nothing_judged,
    numbers,
    plain_sentence,
    read_interval,
    verdict,
)
from metrixkit.report.text import format_value

# In this order; whatever else lies in the folder follows. Pictures say themselves what they show; those of runs of
# earlier versions do not, and have this for a title and a caption.
PICTURES: dict[str, tuple[str, str, str]] = {
    "curves": ("Training", "What was logged over the steps of training.", DRAWING),
    "retrieval_wrong": ("Most confidently wrong", "", PHOTOGRAPHS),
    "retrieval_right": ("Most confidently right", "", PHOTOGRAPHS),
    "retrieval": ("Queries drawn at random", "Queries with their nearest pictures.", PHOTOGRAPHS),
    "similarities": ("Similarity of right and wrong pictures", "", DRAWING),
    "map": ("Map of the test pictures", "", PHOTOGRAPHS),
    "mixed": ("Mixed examples", "", PHOTOGRAPHS),
}


def write_report(run_dir: str | os.PathLike[str]) -> Path:
    """Write ``report.html`` of a run folder: one plain sentence, the metrics with what they mean, pictures, counts,
    configuration, how to repeat it.

    Reads ``results.json``, ``predictions.npz``, ``metrics.jsonl``, ``config.yaml`` and ``pictures/*.png``; what is
    missing is left out. Curves are drawn into ``pictures/curves.png`` from ``metrics.jsonl``. The page holds its
    pictures, loads nothing and runs nothing.

    Args:
        run_dir: The run folder.

    Returns:
        The path of the page.

    Raises:
        InputError: No such folder, or a file of it that cannot be read.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such run folder.")
    results = _read_json(folder / "results.json")
    if (folder / "metrics.jsonl").is_file():
        training_curves(folder / "metrics.jsonl", folder / "pictures" / "curves.png")
    within = read_interval(results, folder / "predictions.npz")
    sections = {
        "Results": _results(results, within),
        "Pictures": _pictures(folder / "pictures"),
        "Counts": _counts(results.get("counts")),
        "How to repeat it": _repeat(results),
        "Configuration": _config(folder / "config.yaml"),
    }
    sections = {title: body for title, body in sections.items() if body}
    name = folder.resolve().name
    opening = [f"<h1>{safe(name)}</h1>", _about(results), _plain(results, within), contents(list(sections))]
    return write_text(
        document(name, [*opening, *(section(title, body) for title, body in sections.items())]),
        folder / "report.html",
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return read_json(path)
    except InputError as error:
        raise InputError(f"{error} Evaluate the run again to write it anew.") from error


def _about(results: Mapping[str, Any]) -> str:
    about = [
        str(results[key]) if key != "protocol" else f"protocol {results[key]}"
        for key in ("data", "split", "protocol")
        if results.get(key)
    ]
    return f'<p class="lead">{safe(" · ".join(about))}</p>' if about else ""


def _plain(results: Mapping[str, Any], within: Interval | None) -> str:
    said = verdict(results)
    if said is None:
        if results.get("judged", True):
            return ""
        words = nothing_judged(results)
        return f'<p class="note"><strong>{safe(words[0].upper() + words[1:])}</strong></p>'
    text, good = said
    figures = safe(text) if good else f"<strong>{safe(text)}</strong>"
    return (
        f'<p class="plain">{safe(plain_sentence(results, within))}</p>\n'
        f'<p class="note{" good" if good else ""}">{figures}</p>'
    )


def _results(results: Mapping[str, Any], within: Interval | None) -> str:
    chosen = results.get("selected") or "selected"
    columns = [("before training", "before"), (f"selected ({chosen})", "metrics"), ("last epoch", "last")]
    filled = [(title, found) for title, key in columns if (found := numbers(results, key))]
    if not filled:
        return ""
    names = list(dict.fromkeys(name for _, found in filled for name in found))
    given = results.get("definitions")
    given = given if isinstance(given, Mapping) else {}
    definitions, shared = exact(names, given)
    # The plain words speak of pictures and classes, or of texts and videos.
    plain = is_retrieval(results) or results.get("task") in ("crossmodal", "self-supervised", "classification")
    head = "".join(f'<th class="number">{safe(title)}</th>' for title, _ in filled)
    lines = [f"<tr><th>metric</th>{head}<th>what it says</th></tr>"]
    for name in names:
        cells = "".join(
            f'<td class="number" data-head="{safe(title)}">'
            f"{safe(format_value(name, found[name]) if name in found else '–')}</td>"
            for title, found in filled
        )
        words, precise = in_words(name) if plain else "", definitions[name]
        meaning = safe(words) + (f'<span class="exact">{safe(precise)}</span>' if precise else "")
        lines.append(f'<tr><td class="name">{safe(name)}</td>{cells}<td class="meaning">{meaning}</td></tr>')
    below = [
        _interval_line(results, within),
        _gain_line(results),
        _selection_line(results),
        " ".join(str(text) for text in (shared, given.get("convention")) if text),
        # Definitions of what is no column: of counts, of an assumption.
        *(f"{name}: {text}" for name, text in given.items() if name not in names and name != "convention"),
        TOGETHER if any(name in GEOMETRY for name in names) else "",
    ]
    notes = "\n".join(f'<p class="soft">{safe(text)}</p>' for text in below if text)
    return '<div class="scroll"><table class="stack">\n' + "\n".join(lines) + f"\n</table></div>\n{notes}"


def _interval_line(results: Mapping[str, Any], within: Interval | None) -> str:
    name = headline(results)
    if name is None or within is None:
        return ""
    low, high = (format_value(name, value) for value in within)
    kept = results.get("intervals")
    by_class = kept[name].get("by_class") if isinstance(kept, Mapping) and isinstance(kept.get(name), Mapping) else None
    if isinstance(by_class, list) and len(by_class) == 2:
        low_by, high_by = (format_value(name, value) for value in by_class)
        narrow = f"queries of one class rise and fall together: drawing whole classes gives {low_by} to {high_by}."
    else:
        narrow = "queries of one class rise and fall together, which makes it too narrow where classes are few."
    return (
        f"{name} lies between {low} and {high} with 95 % confidence (percentile bootstrap over queries). That covers "
        f"which queries were asked, not what another seed would give; {narrow}"
    )


def _gain_line(results: Mapping[str, Any]) -> str:
    gain = results.get("gain")
    if not isinstance(gain, Mapping) or not results.get("before"):
        return ""
    if "none" in gain:
        return f"No interval of the change by training: {gain['none']}."
    sure = how_sure(results).lstrip(" (").replace(")", "", 1)
    return f"{gain.get('metric')}, change by training: {sure}. {gain.get('definition', '')}" if sure else ""


def _selection_line(results: Mapping[str, Any]) -> str:
    chosen = results.get("validation")
    if not isinstance(chosen, Mapping):
        return ""
    held = {"": "a validation split that came with the data", "classes": "training classes that were held out"}.get(
        str(chosen.get("held_out")), "training items that were held out, of classes that were trained on"
    )
    classes = f" of {chosen['classes']} classes" if "classes" in chosen else ""
    return f"Selected by {chosen.get('metric')} on {held} ({chosen.get('items')} items{classes})."


def _pictures(folder: Path) -> str:
    order = list(PICTURES)
    found = sorted(folder.glob("*.png"), key=lambda p: (order.index(p.stem) if p.stem in order else len(order), p.name))
    titles = {path: PICTURES.get(path.stem, (path.stem.replace("_", " "), "", PHOTOGRAPHS)) for path in found}
    return "\n".join(picture(path, *titles[path]) for path in found)


def _counts(values: Any) -> str:
    if not isinstance(values, Mapping) or not values:
        return ""
    rows = [(str(name).replace("_", " "), _number(value)) for name, value in values.items()]
    return f'<p class="soft">What the numbers rest on.</p>\n{table((), rows)}'


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return json.dumps(value) if isinstance(value, list | dict) else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _repeat(results: Mapping[str, Any]) -> str:
    command, parts = results.get("command"), []
    if command:
        line = command if isinstance(command, str) else " ".join(map(str, command))
        parts.append(f'<pre class="wrap">{safe(line)}</pre>')
    facts = {key: results[key] for key in ("seed", "seconds") if results.get(key) is not None}
    if isinstance(facts.get("seconds"), Mapping):
        facts |= {f"seconds, {name.replace('_', ' ')}": value for name, value in facts.pop("seconds").items()}
    versions = results.get("versions")
    facts |= versions if isinstance(versions, Mapping) else {}
    rows = [(name, str(value) if name == "seed" else _number(value)) for name, value in facts.items()]
    return "\n".join([*parts, table((), rows) if rows else ""]).strip()


def _config(path: Path) -> str:
    if not path.is_file():
        return ""
    text = path.read_text(encoding="utf-8", errors="replace")
    return f"<details open><summary>config.yaml, every setting resolved</summary><pre>{safe(text)}</pre></details>"
