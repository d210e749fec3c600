"""The bones of every page: one self-contained document, escaped text, tables, pictures inside the file."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from metrixkit import files
from metrixkit.errors import InputError

# Even a slip in escaping could then neither run a script nor reach a network.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
DRAWING, PHOTOGRAPHS = "drawing", "photographs"  # what a picture is of: drawings turn dark with the page
SCREEN = 96.0  # pixels an inch, as style sheets count
STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent);
  --soft: color-mix(in srgb, currentColor 68%, transparent); --tint: color-mix(in srgb, currentColor 6%, transparent); }
* { box-sizing: border-box; }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 64rem; margin: 2.2rem auto 5rem; padding: 0 1.25rem; }
h1 { font-size: 1.05rem; font-weight: 600; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 3rem 0 .5rem; }
p { max-width: 46rem; }
.lead, .soft { color: var(--soft); margin: 0 0 1rem; }
.plain { font-size: 1.6rem; line-height: 1.35; font-weight: 500; margin: 1.6rem 0 .8rem; text-wrap: pretty; }
.note { border-left: 4px solid #c0392b; padding: .55rem .9rem; max-width: 46rem;
  background: color-mix(in srgb, #c0392b 10%, transparent); }
.note.good { border-color: #1a8f3c; background: color-mix(in srgb, #1a8f3c 10%, transparent); }
nav { margin: 1.4rem 0 0; } nav a { margin-right: 1.1rem; white-space: nowrap; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .4rem 1.05rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; } td.name { font-weight: 600; white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
.meaning { font-size: .9rem; min-width: 20rem; } .meaning .exact { color: var(--soft); display: block; }
.scroll { overflow-x: auto; margin-bottom: 1rem; }
pre { background: var(--tint); padding: .8rem 1rem; overflow-x: auto; border-radius: 6px;
  font: 13px/1.45 ui-monospace, monospace; }
pre.wrap { white-space: pre-wrap; overflow-wrap: anywhere; }
details > summary { cursor: pointer; }
figure { margin: 0 0 2.4rem; } figure h3 { font-size: 1rem; margin: 0 0 .2rem; }
figcaption { color: var(--soft); font-size: .92rem; max-width: 46rem; margin-bottom: .6rem; }
img { max-width: 100%; height: auto; background: white; border-radius: 4px; display: block; }
@media (prefers-color-scheme: dark) { img.drawing { filter: invert(.91) hue-rotate(180deg); } }
@media (max-width: 44rem) {
  body { margin-top: 1.2rem; padding: 0 1rem; } .plain { font-size: 1.3rem; }
  figure img { max-width: none; width: max(100%, min(38rem, var(--wide))); }
  .stack tr:first-child { position: absolute; left: -200vw; }
  .stack tr { display: flex; flex-wrap: wrap; column-gap: 1.4rem; border-bottom: 1px solid var(--line);
    padding: .55rem 0; }
  .stack td { border: 0; padding: 0; } .stack td.name { flex-basis: 100%; white-space: normal; }
  .stack td.meaning { flex-basis: 100%; min-width: 0; }
  .stack td.number { text-align: left; } .stack td.number::before { content: attr(data-head); color: var(--soft);
    font-size: .8rem; display: block; }
}
"""


def safe(value: Any) -> str:
    """Return text for HTML, between tags or between quotes of an attribute: nothing in it opens a tag or closes one."""
    return html.escape(str(value), quote=True)


def document(title: str, parts: Iterable[str]) -> str:
    """Return a whole page that loads nothing and runs nothing.

    Args:
        title: Shown by the browser, unescaped.
        parts: HTML; empty ones are left out.
    """
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{safe(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>",
            *(part for part in parts if part),
            "</body>\n</html>\n",
        ]
    )


def section(title: str, *parts: str) -> str:
    """Return a section under its heading; "" where all its parts are empty."""
    filled = [part for part in parts if part]
    return f'<h2 id="{anchor(title)}">{safe(title)}</h2>\n' + "\n".join(filled) if filled else ""


def anchor(title: str) -> str:
    """Return the id of a section's heading."""
    return "".join(sign if sign.isalnum() else "-" for sign in title.lower())


def contents(titles: Sequence[str]) -> str:
    """Return links to sections on the page."""
    links = " ".join(f'<a href="#{anchor(title)}">{safe(title)}</a>' for title in titles)
    return f"<nav>{links}</nav>" if links else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1) -> str:
    """Return a table of plain text: names to the left, numbers to the right; it scrolls where it is too wide.

    Args:
        head: Column titles; none for a table without a head.
        rows: Cells, unescaped.
        names: How many columns hold text, not numbers.
    """
    kinds = ["" if place < names else ' class="number"' for place in range(max(len(head), 2))]
    lines = [f"<tr>{''.join(f'<th{k}>{safe(c)}</th>' for k, c in zip(kinds, head, strict=True))}</tr>"] if head else []
    for row in rows:
        cells = (f"<td{kind}>{safe(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return '<div class="scroll"><table>\n' + "\n".join(lines) + "\n</table></div>"


def picture(png: Path | bytes, title: str = "", caption: str = "", kind: str = PHOTOGRAPHS) -> str:
    """Return a figure that holds a PNG.

    Args:
        png: A file or its content. What
            :func:`~metrixkit.report.drawing.png` wrote into it comes before the other arguments.
        title: Above the picture.
        caption: Under the title; also the picture's alternative text.
        kind: "drawing" or "photographs".

    Raises:
        InputError: It is no picture.
    """
    if not isinstance(png, bytes):
        files.refuse_special(png)
    data = png if isinstance(png, bytes) else png.read_bytes()
    try:
        with Image.open(BytesIO(data)) as image:
            told, size = dict(getattr(image, "text", {})), image.size
            dpi = float(image.info.get("dpi", (SCREEN, SCREEN))[0]) or SCREEN
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        where = "a picture" if isinstance(png, bytes) else png
        raise InputError(f"{where}: is no PNG that can be read ({error}). Delete it, or draw it again.") from error
    title, caption, kind = told.get("Title", title), told.get("Description", caption), told.get("Kind", kind)
    code = base64.b64encode(data).decode("ascii")
    alt = safe(f"{title}. {caption}" if caption else title)
    drawing = ' class="drawing"' if kind == DRAWING else ""
    # Inches are shown as inches: pictures are drawn finer than screens count them.
    wide, high = (round(pixels * SCREEN / dpi) for pixels in size)
    shown = f'width="{wide}" height="{high}" style="--wide:{wide}px"'
    return (
        f"<figure><h3>{safe(title)}</h3>"
        + (f"<figcaption>{safe(caption)}</figcaption>" if caption else "")
        + f'<div class="scroll"><img{drawing} {shown} alt="{alt}" src="data:image/png;base64,{code}"></div></figure>'
    )


def write_text(text: str, path: str | os.PathLike[str], option: str = "") -> Path:
    """Write a page or a table whole or not at all, making its folder; return its path."""
    # A file name that is no UTF-8 may be part of the text.
    return files.write_text(path, text, option, errors="replace")
