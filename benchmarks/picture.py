"""The results as one HTML page with an SVG for each workload: no script, no link, good in light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby

from .results import Results, Row, busy, order_of
from .systems import Kind
from .targets import Checked

WIDTH, LABELS, VALUES, ROW, TOP = 860, 210, 150, 30, 34
TITLES = {
    "W1": "A line of steps",
    "W2": "Many steps at once",
    "W3": "Layers of steps",
    "W4": "Many runs at once",
    "W5": "Steps that take time",
    "uneven": "Waiting for one's own dependencies, or for whole levels",
    "W6": "A whole script",
    "W7": "Keeping files",
    "items": "Maps of growing size",
    "small": "Moving many small files between ComfyUI servers",
    "large": "Moving large files between ComfyUI servers",
    "single": "Moving files one by one between ComfyUI servers",
    "static": "A large graph, written out",
}
STYLE = """
:root { color-scheme: light dark; --ground: #fcfcfb; --ink: #16181d; --soft: #5b616e; --line: #d9dce2;
  --towpath: #0b6e99; --peer: #8a5a00; --ceiling: #7c8391; --good: #1c7a3d; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ground: #14161a; --ink: #eceef2; --soft: #a2a9b6;
  --line: #343943; --towpath: #58c0ee; --peer: #e0ab52; --ceiling: #8d95a4; --good: #64cf8b; --bad: #ff8a80; } }
body { margin: 2rem auto; max-width: 60rem; padding: 0 1rem; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .4rem; } h2 { font-size: 1.15rem; margin: 0; }
p { margin: .2rem 0 .6rem; } .soft { color: var(--soft); } section { margin: 2.2rem 0; }
svg { display: block; width: 100%; height: auto; } svg text { font: 13px system-ui, sans-serif; fill: var(--ink); }
svg .soft { fill: var(--soft); font-size: 12px; } svg .grid { stroke: var(--line); }
.towpath { fill: var(--towpath); stroke: var(--towpath); } .peer { fill: var(--peer); stroke: var(--peer); }
.ceiling { fill: var(--ground); stroke: var(--ceiling); } line.ceiling { stroke: var(--ceiling); }
svg text.mine { font-weight: 650; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
td, th { text-align: left; padding: .3rem .7rem .3rem 0; border-top: 1px solid var(--line); vertical-align: top; }
th { color: var(--soft); font-weight: 500; border-top: 0; } .met { color: var(--good); } .missed { color: var(--bad); }
.key span { display: inline-block; margin-right: 1.4rem; } .key svg { display: inline; width: 12px; height: 12px; }
.wide { overflow-x: auto; } .wide svg { min-width: 40rem; }
"""


def page(results: Results, checked: Sequence[Checked]) -> str:
    """The whole page."""
    rows = sorted(results["rows"], key=order_of)
    panels = [_panel(list(group)) for _, group in groupby(rows, key=_panel_of)]
    parts = [_head(results), *panels, _targets(checked), _keeps(rows)]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>How fast towpath is</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _panel_of(row: Row) -> str:
    """The sizes of one workload are shown together."""
    return "items" if row["workload"].startswith("items") else row["workload"]


def _head(results: Results) -> str:
    at = results["machine"]
    size = " Small sizes: a quick look, not a result." if results["quick"] else ""
    size += " The machine was busy with other work as well." if busy(results) else ""
    dot = '<svg viewBox="0 0 12 12" aria-hidden="true"><circle cx="6" cy="6" r="4.5" class="{0}"/></svg> '
    keys = {
        "towpath": "towpath",
        "peer": "other engines, each keeping what it keeps",
        "ceiling": "no engine: what would be possible",
    }
    key = "".join(f"<span>{dot.format(kind)}{text}</span>" for kind, text in keys.items())
    return (
        "<h1>How fast towpath is</h1>\n"
        "<p>The same work, done by towpath, by other engines, and by plain programs that are no engine. They took "
        "turns on one machine, each run in a process of its own, and every outcome was checked. A dot is the median of "
        f"{results['repeats']} {'run' if results['repeats'] == 1 else 'runs'}.{size}</p>\n"
        f'<p class="key">{key}</p>\n'
        f'<p class="soft">towpath {escape(results["towpath"])}, Python {at["python"]}, SQLite {at["sqlite"]}, '
        f"{escape(at['system'])}, {at['cpus']} CPUs, load {at['load']:.1f}, fsync of 4 KiB {at['fsync_ms']:.2f} ms, "
        f"{escape(at['time'])}. Read the distances between dots: another machine moves all of them.</p>"
    )


def _panel(rows: list[Row]) -> str:
    first, measured = rows[0], [row for row in rows if row["runs"]]
    title = TITLES[_panel_of(first)]
    better = "less is better" if first["unit"] == "ms" else "more is better"
    titles = list(dict.fromkeys(row["what"] for row in rows))
    what = f"{titles[0][0].upper()}{titles[0][1:]}{''.join(f', {each}' for each in titles[1:])}: {first['shows']}."
    missing = "".join(
        f'<p class="soft">{escape(row["system"])}: {escape(row["missing"])}</p>' for row in rows if not row["runs"]
    )
    unit = "milliseconds" if first["unit"] == "ms" else first["unit"].replace("steps/s", "steps per second")
    return (
        f'<section id="{_panel_of(first)}"><h2>{escape(title)}</h2>\n'
        f'<p>{escape(what)} <span class="soft">In {unit}, {better}. '
        "Each vertical line is ten times the one before.</span></p>\n"
        f"{_chart(measured, title) if measured else ''}{missing}</section>"
    )


def _chart(rows: list[Row], title: str) -> str:
    """Dots on a logarithmic axis, a row for each system, the best one on top."""
    values = [row["value"] or 0.0 for row in rows]
    low = math.floor(math.log10(max(min(values), 1e-3)) - 1e-9)
    high = max(math.ceil(math.log10(max(values)) + 1e-9), low + 1)
    span = WIDTH - LABELS - VALUES

    def x(value: float) -> float:
        return LABELS + span * (math.log10(max(value, 1e-3)) - low) / (high - low)

    height = TOP + ROW * len(rows) + 6
    parts = [f'<div class="wide"><svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}">']
    for power in range(low, high + 1):
        at = x(10.0**power)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP - 10}" y2="{height - 6}"/>')
        parts.append(
            f'<text class="soft" x="{at:.1f}" y="{TOP - 16}" text-anchor="middle">{_number(10.0**power)}</text>'
        )
    mine = next((row for row in rows if row["system"] == "towpath"), None)
    for number, row in enumerate(rows):
        parts += _dot(row, mine, x(row["value"] or 0.0), TOP + ROW * number + ROW / 2)
    return "\n".join(parts) + "</svg></div>\n"


def _dot(row: Row, mine: Row | None, at: float, y: float) -> list[str]:
    kind, emphasis = row["kind"], ' class="mine"' if row["kind"] == Kind.TOWPATH else ""
    times = ""
    if mine is not None and row is not mine and row["workload"] == mine["workload"]:
        ratio = mine["wall"] / row["wall"]
        times = f'<tspan class="soft"> {_times(ratio)}</tspan>'
    about = escape(f"{row['keeps']}; {row['cpu'] / row['steps'] * 1e6:,.0f} us of CPU a step")
    return [
        f"<g><title>{about}</title>",
        f'<text{emphasis} x="{LABELS - 14}" y="{y + 4.5:.1f}" text-anchor="end">{escape(_label(row))}</text>',
        f'<line class="{kind}" x1="{LABELS}" x2="{at:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke-width="2"/>',
        f'<circle class="{kind}" cx="{at:.1f}" cy="{y:.1f}" r="6" stroke-width="2"/>',
        f'<text{emphasis} x="{at + 13:.1f}" y="{y + 4.5:.1f}">{_number(row["value"] or 0.0)}{times}</text></g>',
    ]


def _label(row: Row) -> str:
    return f"{row['system']}, {row['size']:,} items" if _panel_of(row) == "items" else row["system"]


def _times(ratio: float) -> str:
    """How fast a system is, beside towpath."""
    return f"{ratio:.2g} × towpath" if ratio < 10 else f"{ratio:,.0f} × towpath"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _targets(checked: Sequence[Checked]) -> str:
    if not checked:
        return ""
    words = {True: ("met", "met"), False: ("missed", "missed"), None: ("soft", "–")}
    lines = "".join(
        f"<tr><td>{escape(one.target.what)}</td><td>{escape(one.target.wanted)}</td><td>{escape(one.found)}</td>"
        f'<td class="{words[one.met][0]}">{words[one.met][1]}</td></tr>'
        for one in checked
    )
    heads = "<tr><th>What</th><th>Target</th><th>Measured</th><th></th></tr>"
    return f'<section><h2>Targets</h2><div class="wide"><table>{heads}{lines}</table></div></section>'


def _keeps(rows: Sequence[Row]) -> str:
    keeps = {
        row["system"]: row["keeps"] for row in sorted(rows, key=lambda row: (row["kind"] != Kind.TOWPATH, row["kind"]))
    }
    lines = "".join(f"<tr><td>{escape(name)}</td><td>{escape(text)}</td></tr>" for name, text in keeps.items())
    return (
        "<section><h2>What each keeps</h2><p>An engine that keeps less is faster for that reason alone.</p>"
        f'<div class="wide"><table>{lines}</table></div></section>'
    )
