"""How every report page looks: one HTML file that needs no other, with no script in it."""

import base64
from collections.abc import Iterable
from html import escape

__all__ = ["html_image", "whole_page"]

# No script, no other host: a browser is to hold the page to it.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --text: #1a1a1a; --ground: #fff; --line: #d0d0d0; --dim: #595959 }
@media (prefers-color-scheme: dark) {
  :root { --text: #e8e8e8; --ground: #16181b; --line: #44484e; --dim: #a8adb4 } }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; font: 1rem/1.45 system-ui, sans-serif;
  color: var(--text); background: var(--ground); overflow-wrap: anywhere }
h2 { font-size: 1.15rem; margin-top: 2rem } .note { color: var(--dim) }
.note, table { font-size: .9rem } .scroll { overflow-x: auto } table { border-collapse: collapse }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: left;
  vertical-align: top; max-width: 30rem; overflow-wrap: normal }
.number { text-align: right; font-variant-numeric: tabular-nums }
img { width: 100%; min-width: 40rem; background: #fff; margin: .5rem 0 }
"""


def whole_page(title: str, parts: Iterable[str], *, style: str = "") -> str:
    """A whole page of parts that are HTML already; `title` is escaped."""
    shown = escape(title)
    head = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{shown}</title><style>{_STYLE}{style}</style></head><body><h1>{shown}</h1>",
    ]
    return "\n".join([*head, *parts, "</body></html>"])


def html_image(name: str, data: bytes) -> str:
    """A PNG inside the page."""
    url = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    return f'<div class="scroll"><img alt="{escape(name)}" src="{url}"></div>'
