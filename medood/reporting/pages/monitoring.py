"""what monitoring found, as a page, as JSON and as Prometheus text."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from medood.errors import MedoodError
from medood.output_folder import atomic_write
from medood.reporting.pages.style import count, page, text
from medood.screening.monitor.run_comparison import Monitoring, Stream

_WIDTH, _HEIGHT, _MARGIN = 720, 180, 46


def write_monitoring(result: Monitoring, folder: Path) -> Path:
    """Write ``monitor.html``, ``monitor.json`` and ``monitor.prom`` into a folder; return the page.

    Raises:
        MedoodError: the folder cannot be written.
    """
    contents = {
        "monitor.json": json.dumps(asdict(result), indent=1, allow_nan=False) + "\n",
        "monitor.prom": prometheus(result),
        "monitor.html": monitoring_page(result),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            with atomic_write(folder / name) as partial:
                partial.write_text(content, encoding="utf-8")
    except OSError as error:
        raise MedoodError(f"{folder} cannot be written: {error.strerror or error}.") from error
    return folder / "monitor.html"


def prometheus(result: Monitoring) -> str:
    """The latest run of each stratum, in Prometheus text format; a run without scans has no flag rate."""
    registry = CollectorRegistry()
    gauges = {
        name: Gauge(f"medood_monitor_{name}", words, ["stratum"], registry=registry)
        for name, words in (
            ("scans", "Scored scans of the latest run"),
            ("flag_rate", "Share of them that is flagged"),
            ("outside_limits", "1 if that share is outside its control limits"),
            ("alarms", "Changes reported among them"),
            ("evidence", "Decimal logarithm of the evidence of a change at the last scan"),
        )
    }
    for stream in result.streams:
        latest = stream.periods[-1]
        values = (latest.scans, latest.rate, latest.is_outside, len(latest.alarms), stream.evidence[-1][1])
        for gauge, value in zip(gauges.values(), values, strict=True):
            if value is not None:
                gauge.labels(stream.stratum).set(float(value))
    return generate_latest(registry).decode()


def monitoring_page(result: Monitoring) -> str:
    """A self-contained page without scripts."""
    alarms = sum(len(period.alarms) for stream in result.streams for period in stream.periods)
    outside = sum(period.is_outside for stream in result.streams for period in stream.periods)
    name, sha256 = result.detector
    body = "".join(_section(stream, result) for stream in result.streams)
    introduction = f"""<p>{count(alarms, "alarm")}, {count(outside, "period")} outside the control limits.
Detector {sha256[:12]}, calibration {text(result.calibration)}.</p>
<p>The control limits hold the flag rate of a period in 99.7 % of cases if nothing has changed since the first
{"run" if result.baseline == 1 else f"{result.baseline} runs"}. An alarm says that the scores are no longer exchangeable
with the earlier ones; at most one in {result.every:,.0f} scans of a stratum is expected to be false. Neither says what has
changed: a device, its settings, the patients or the disease.</p>
"""
    return page(f"Monitoring of {name or 'a detector'}", introduction + body)


def _section(stream: Stream, result: Monitoring) -> str:
    rows = []
    for period in stream.periods:
        rate = "no scans" if period.rate is None else f"{100 * period.rate:.1f} %"
        is_baseline = period in stream.periods[: result.baseline]
        unknown = "baseline" if is_baseline else "no baseline"
        limits = unknown if period.limits is None else "{:.1f} to {:.1f} %".format(*(100 * v for v in period.limits))
        quantiles = ["", "", ""] if period.quantiles is None else [f"{value:.2f}" for value in period.quantiles]
        alarms = ", ".join(f"at scan {scan}" for scan in period.alarms)
        mark = ' class="bad"' if period.is_outside else ""
        first = (period.started[:10], f"{period.scans:,}", f"{period.flagged:,}")
        before = "".join(f"<td>{text(cell)}</td>" for cell in first)
        after = "".join(f"<td>{cell}</td>" for cell in (limits if period.scans else "", *quantiles))
        rows.append(f'<tr><td>{text(period.run)}</td>{before}<td{mark}>{rate}</td>{after}<td class="bad">{alarms}</td></tr>')
    title = f"<h2>{text(stream.stratum)}</h2>" if stream.stratum else "<h2>All scans</h2>"
    heads = "".join(
        f'<th scope="col">{head}</th>'
        for head in ("run", "begun", "scans", "flagged", "rate", "expected", "score 5 %", "median", "95 %", "alarms")
    )
    return (
        f"{title}<h3>Flag rate and its control limits</h3>{_rates(stream)}"
        f"<h3>Evidence of a change (decimal logarithm) along the scans</h3>{_evidence(stream, result.every)}"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _rates(stream: Stream) -> str:
    shown = [(i, period) for i, period in enumerate(stream.periods) if period.rate is not None]
    top = max([0.01, *(max(period.rate or 0.0, period.limits[1] if period.limits else 0.0) for _, period in shown)]) * 1.1
    slot = (_WIDTH - 2 * _MARGIN) / max(1, len(stream.periods))

    def place(i: int, value: float) -> tuple[float, float]:
        return _MARGIN + (i + 0.5) * slot, _HEIGHT - 24 - (_HEIGHT - 40) * value / top

    parts = []
    for i, period in shown:
        x, y = place(i, period.rate or 0.0)
        if period.limits:
            low, high = (place(i, limit)[1] for limit in period.limits)
            box = f'x="{x - slot * 0.4:.1f}" y="{high:.1f}" width="{slot * 0.8:.1f}" height="{low - high:.1f}"'
            parts.append(f'<rect class="band" {box}/>')
        parts.append(f'<circle class="{"alarm" if period.is_outside else "dot"}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
    step = max(1, len(stream.periods) // 12)
    parts += [
        f'<text x="{place(i, 0)[0]:.1f}" y="{_HEIGHT - 6}" text-anchor="middle">{text(period.started[:7])}</text>'
        for i, period in enumerate(stream.periods)
        if i % step == 0
    ]
    return _chart(parts, [(place(0, value)[1], f"{100 * value:.3g} %") for value in (0.0, top / 2, top)], "flag rate by run")


def _evidence(stream: Stream, every: float) -> str:
    limit = math.log10(every)
    top = max([limit, *(value for _, value in stream.evidence)]) * 1.1
    last = max([1, *(scan for scan, _ in stream.evidence)])

    def place(scan: int, value: float) -> tuple[float, float]:
        return _MARGIN + (_WIDTH - 2 * _MARGIN) * scan / last, _HEIGHT - 24 - (_HEIGHT - 40) * max(value, 0.0) / top

    points = " ".join("{:.1f},{:.1f}".format(*place(scan, value)) for scan, value in stream.evidence)
    y = place(0, limit)[1]
    parts = [
        f'<polyline class="line" points="{points}"/>',
        f'<line class="limit" x1="{_MARGIN}" x2="{_WIDTH - _MARGIN}" y1="{y:.1f}" y2="{y:.1f}"/>',
        *(_dot(*place(scan, value)) for scan, value in stream.evidence if value >= limit),
        f'<text x="{_WIDTH - _MARGIN}" y="{_HEIGHT - 6}" text-anchor="end">{last:,} scans</text>',
    ]
    return _chart(parts, [(place(0, value)[1], f"{value:.0f}") for value in (0.0, limit)], "evidence of a change by scan")


def _dot(x: float, y: float) -> str:
    return f'<circle class="alarm" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'


def _chart(parts: Sequence[str], ticks: Sequence[tuple[float, str]], label: str) -> str:
    axis = "".join(f'<text x="{_MARGIN - 6}" y="{y + 4:.1f}" text-anchor="end">{tick}</text>' for y, tick in ticks)
    base = f'<line class="axis" x1="{_MARGIN}" x2="{_WIDTH - _MARGIN}" y1="{_HEIGHT - 24}" y2="{_HEIGHT - 24}"/>'
    return f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{label}">{base}{axis}{"".join(parts)}</svg>'
