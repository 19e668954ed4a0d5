"""What pages without scripts share."""

from __future__ import annotations

import base64
import hashlib
import html

from medood.text import visible

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #1b1b1b; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; } h3 { font-size: 1em; margin-bottom: .2em; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: right; padding: .25em .6em; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; } .bad { color: #a40000; font-weight: 600; }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: #444; }
.axis { stroke: #999; } .line { stroke: #1f5fa8; fill: none; stroke-width: 1.5; } .dot { fill: #1f5fa8; }
.band { fill: #d7e6f6; } .limit { stroke: #a40000; stroke-dasharray: 4 3; } .alarm { fill: #a40000; }
.sheet { display: flex; flex-wrap: wrap; gap: 10px; padding: 0; list-style: none; }
.sheet li { width: 132px; font-size: 12px; overflow-wrap: anywhere; } .sheet img { width: 128px; background: #000; }
"""


def page(title: str, body: str) -> str:
    """A self-contained page; nothing is loaded, and no script runs."""
    style = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{style}'"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>{text(title)}</title>
<style>{STYLE}</style></head><body><h1>{text(title)}</h1>
{body}</body></html>
"""


def text(value: str) -> str:
    """Text for HTML, without control characters."""
    return html.escape(visible(value))


def count(number: int, what: str) -> str:
    """A number with its noun, in the plural but for one."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
