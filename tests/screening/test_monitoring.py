"""Monitoring raises the alarm after a change and stays silent without one."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, kstest
from typer.testing import CliRunner

from medood.cli.main import app
from medood.config.schema import ReadConfig
from medood.errors import MedoodError
from medood.reporting.pages.monitoring import monitoring_page, prometheus
from medood.screening.ledger.database import Ledger, Row
from medood.screening.ledger.run_metadata import CalibrationInfo, DetectorInfo, RunMetadata
from medood.screening.monitor.change_detection import ChangeDetector, changes
from medood.screening.monitor.run_comparison import control_limits, monitor

METADATA = RunMetadata(
    medood="0.2.0",
    started="2026-01-01T00:00:00+00:00",
    sources=["archive"],
    fpr=0.05,
    limit=0.05,
    calibration=CalibrationInfo("training", "c" * 64, 100),
    detector=DetectorInfo("detector", "d" * 64, "chests"),
    finished="2026-01-01T01:00:00+00:00",
)


def write_run(
    folder: Path,
    month: int,
    scores: np.ndarray,
    limit: float = 1.65,
    stratum: str = "",
    frames: int = 1,
    **changed: object,
) -> Path:
    ledger = Ledger(folder, create=True)
    started = f"2026-{month:02d}-01T00:00:00+00:00"
    ledger.set_metadata(**replace(METADATA, started=started, **changed).to_dict())  # type: ignore[arg-type]
    decisions = ["out_of_distribution" if score > limit else "in_distribution" for score in scores]
    metadata = {"stratum": stratum} if stratum else {}
    ledger.add(
        Row("archive", f"{i}", 0, f"{month}-{i}", "scored", "", float(score), 0.5, decision, metadata, file=i // frames)
        for i, (score, decision) in enumerate(zip(scores, decisions, strict=True))
    )
    ledger.close()
    return folder


def months(folder: Path, shift: float = 0.0, since: int = 13, scans: int = 400) -> list[Path]:
    rng = np.random.default_rng(0)
    return [
        write_run(folder / f"month{i:02d}", i, rng.normal(shift if i >= since else 0.0, 1.0, scans)) for i in range(1, 13)
    ]


def ranks_of(scores: np.ndarray, seed: int) -> np.ndarray:
    detector = ChangeDetector(np.random.default_rng(seed))
    return np.concatenate([detector.rank(block) for block in np.split(scores, range(700, len(scores), 700))])


def test_ranks_against_a_slow_loop_and_with_ties() -> None:
    scores = np.random.default_rng(1).integers(0, 50, 5000).astype(float)
    ranks = ranks_of(scores, 2)
    draws = np.random.default_rng(2).random(5000)
    for i in (0, 1, 7, 699, 700, 701, 4999):
        above, equal = (scores[:i] > scores[i]).sum(), (scores[:i] == scores[i]).sum()
        assert ranks[i] == pytest.approx((above + draws[i] * (equal + 1)) / (i + 1))


def test_ranks_of_exchangeable_scores_are_uniform_and_independent() -> None:
    ranks = ranks_of(np.random.default_rng(3).exponential(size=6000), 4)
    assert kstest(ranks, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(ranks[:-1], ranks[1:])[0, 1]) < 0.04


def test_each_bet_is_fair_and_the_capital_follows_a_slow_loop() -> None:
    grid = (np.arange(200_000) + 0.5) / 200_000
    for bet in (0.5 / np.sqrt(grid), 0.5 / np.sqrt(1 - grid), 2 * (1 - grid), 2 * grid):
        assert bet.mean() == pytest.approx(1.0, abs=2e-3)
    ranks = np.random.default_rng(5).random(50) ** 2
    shares, capital = [0.2] * 5, 1.0
    detector = ChangeDetector(np.random.default_rng(0))
    logarithms = np.concatenate([detector.evidence(part) for part in np.split(ranks, [20])])
    for rank, logarithm in zip(ranks, logarithms, strict=True):
        shares = [0.99 * share + 0.01 / 5 for share in shares]
        bets = [1.0, 0.5 / math.sqrt(rank), 0.5 / math.sqrt(1 - rank), 2 * (1 - rank), 2 * rank]
        won = [share * bet for share, bet in zip(shares, bets, strict=True)]
        capital = max(capital, 1.0) * sum(won)
        shares = [one / sum(won) for one in won]
        assert logarithm == pytest.approx(math.log(capital))


def test_an_alarm_comes_soon_after_a_change_and_the_comparison_begins_anew() -> None:
    rng = np.random.default_rng(6)
    scores = np.concatenate([rng.normal(0, 1, 3000), rng.normal(1, 1, 3000)])
    alarms, evidence = changes(scores, 1e6)
    assert len(alarms) == 1
    assert 3000 <= alarms[0] < 3200
    assert evidence[alarms[0]] >= math.log(1e6)
    assert evidence[alarms[0] + 1] < 5.0


def test_control_limits_against_the_binomial_where_the_baseline_is_large() -> None:
    low, high = control_limits(50_000, 1_000_000, 400)
    assert low == pytest.approx(binom(400, 0.05).ppf(0.00135) / 400, abs=1 / 400)
    assert high == pytest.approx(binom(400, 0.05).isf(0.00135) / 400, abs=1 / 400)
    assert control_limits(20, 400, 400)[1] > high  # a small baseline is uncertain too


def test_a_change_of_device_in_month_7_is_found_and_told(tmp_path: Path) -> None:
    runs = months(tmp_path, shift=1.0, since=7)
    result = CliRunner().invoke(app, ["monitor", *map(str, reversed(runs)), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    told = " ".join(result.stderr.split())
    assert told.count("ALARM") == 1
    assert "ALARM in month07: the scans have changed" in told
    assert "in month08" in told
    found = json.loads((tmp_path / "out" / "monitor.json").read_text())
    (stream,) = found["streams"]
    assert [period["run"] for period in stream["periods"]] == [f"month{i:02d}" for i in range(1, 13)]
    assert 1 <= stream["periods"][6]["alarms"][0] < 200
    prometheus = (tmp_path / "out" / "monitor.prom").read_text()
    assert 'medood_monitor_outside_limits{stratum=""} 1.0' in prometheus
    page = (tmp_path / "out" / "monitor.html").read_text()
    assert "1 alarm, 6 periods outside the control limits" in " ".join(page.split())


def test_a_quiet_year_raises_none(tmp_path: Path) -> None:
    found = monitor(months(tmp_path))
    (stream,) = found.streams
    assert not any(period.alarms for period in stream.periods)
    assert not any(period.is_outside for period in stream.periods)


def test_a_month_without_scans_and_a_new_stratum(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    runs = [
        write_run(tmp_path / "a", 1, rng.normal(size=50), stratum="CR"),
        write_run(tmp_path / "b", 2, np.empty(0)),
        write_run(tmp_path / "c", 3, rng.normal(size=50), stratum="<DX>"),
    ]
    found = monitor(runs)
    assert [stream.stratum for stream in found.streams] == ["<DX>", "CR"]
    assert [period.scans for period in found.streams[1].periods] == [50, 0, 0]
    assert all(period.limits is None for period in found.streams[0].periods)  # it has no baseline
    assert "no scans" in monitoring_page(found)
    assert "&lt;DX&gt;" in monitoring_page(found)
    assert "no baseline" in monitoring_page(found)
    assert 'medood_monitor_scans{stratum="CR"} 0.0' in prometheus(found)
    assert 'medood_monitor_flag_rate{stratum="CR"}' not in prometheus(found)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"detector": DetectorInfo("other", "e" * 64)}, "another detector"),
        ({"calibration": CalibrationInfo("site", "f" * 64, 40)}, "another calibration"),
        ({"fpr": 0.01}, "another --fpr"),
        ({"read": ReadConfig(decode="full")}, "another way of reading"),
        ({"finished": None}, "was not finished"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused(tmp_path: Path, changed: dict[str, object], message: str) -> None:
    runs = [write_run(tmp_path / "a", 1, np.zeros(5)), write_run(tmp_path / "b", 2, np.zeros(5), **changed)]
    with pytest.raises(MedoodError, match=message):
        monitor(runs)


def test_frames_of_a_file_count_once_and_infinite_scores_do_no_harm(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    runs = [
        write_run(tmp_path / f"{i}", i, np.repeat(rng.normal(size=30), 20) + rng.normal(0, 0.01, 600), frames=20)
        for i in range(1, 13)
    ]
    runs.append(write_run(tmp_path / "13", 12, np.full(30, np.inf)))
    (stream,) = monitor(runs).streams
    assert [period.scans for period in stream.periods] == [30] * 13
    assert not any(period.alarms for period in stream.periods[:12])
    json.dumps(stream.periods[12].quantiles, allow_nan=False)


def test_wrong_settings_are_told(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"{i}", i, np.zeros(5)) for i in (1, 2)]
    with pytest.raises(MedoodError, match="--baseline is 2; expected 1 to 1"):
        monitor(runs, baseline=2)
    for every in (5.0, math.nan, math.inf):
        with pytest.raises(MedoodError, match=f"--every is {every:g}"):
            monitor(runs, every=every)
    with pytest.raises(MedoodError, match="was given twice"):
        monitor([runs[0], runs[0]])
    with pytest.raises(MedoodError, match="false-discovery rate"):
        monitor([write_run(tmp_path / "fdr", 1, np.zeros(5), fdr=0.1, fpr=None)])
    with pytest.raises(MedoodError, match="is not a run"):
        monitor([tmp_path])
