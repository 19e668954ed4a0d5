from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import spearmanr

from medood.detection.detector import Detector
from medood.errors import MedoodError
from medood.evaluation.baselines import Trivial
from medood.evaluation.benchmark import Benchmark, benchmark
from medood.evaluation.cross_site.pairs import severity_correlation
from medood.evaluation.cross_site.site_calibration import after_calibration
from medood.evaluation.manifest import Entry, read_manifest, with_pairs
from medood.evaluation.metrics import auroc_within, draw
from medood.evaluation.shortcuts import CommonHistogram, grey_strata
from medood.evaluation.tables import write_benchmark
from medood.phantom.chest import frontal_chest
from medood.phantom.outliers import OUTLIERS


def names(letter: str, count: int) -> np.ndarray:
    return np.array([f"{letter}{i}" for i in range(count)])


def test_the_auroc_within_strata_is_the_share_of_pairs_won() -> None:
    rng = np.random.default_rng(0)
    p, n = rng.integers(0, 6, 30).astype(float), rng.integers(0, 5, 40).astype(float)
    strata_p, strata_n = rng.integers(0, 3, 30), rng.integers(0, 4, 40)
    won = [
        0.5 if a == b else float(a > b)
        for (a, s), (b, t) in itertools.product(zip(p, strata_p, strict=True), zip(n, strata_n, strict=True))
        if s == t
    ]
    draws = draw(names("p", 30), names("n", 40), 200, 0)
    figure = auroc_within(p, n, strata_p, strata_n, draws)
    assert figure.value == pytest.approx(np.mean(won))
    assert figure.low < figure.value < figure.high
    assert np.isnan(auroc_within(p, n, np.zeros(30, int), np.ones(40, int), draws).value)


def test_a_score_that_is_grey_alone_is_worth_nothing_within_grey_strata() -> None:
    """Two sets that differ in brightness, a score that is the brightness, and one that sees something else."""
    rng = np.random.default_rng(1)
    count = 400

    def side(mean: float) -> Trivial:
        grey = rng.normal(mean, 1.0, (count, 10)).astype(np.float32)
        return Trivial(np.zeros((count, 1, 1), np.float32), grey, np.zeros((count, 4), np.float32), grey[:, :2])

    disease, normal = side(0.4), side(0.0)
    draws = draw(names("d", count), names("n", count), 100, 0)
    everything = np.zeros(count, dtype=np.int64)
    brightness = disease.grey.sum(axis=1), normal.grey.sum(axis=1)
    assert auroc_within(*brightness, everything, everything, draws).value > 0.75
    strata = grey_strata((brightness[0], disease), (brightness[1], normal), names("n", count))
    assert auroc_within(*brightness, *strata, draws).value < 0.56
    lesion = rng.normal(1.0, 1.0, count), rng.normal(0.0, 1.0, count)
    strata = grey_strata((lesion[0], disease), (lesion[1], normal), names("n", count))
    assert auroc_within(*lesion, *strata, draws).value == pytest.approx(0.76, abs=0.04)


def test_matching_leaves_only_the_order_of_the_grey_values() -> None:
    rng = np.random.default_rng(0)
    common = CommonHistogram()
    for _ in range(20):
        common.add(rng.beta(2, 5, (50, 40)).astype(np.float32))
    image = rng.random((50, 40)).astype(np.float32)
    dark, light = common.match(image**3), common.match(np.sqrt(image))
    np.testing.assert_array_equal(dark, light)
    np.testing.assert_array_equal(dark.ravel().argsort(), image.ravel().argsort())
    np.testing.assert_allclose(
        np.quantile(dark, [0.1, 0.5, 0.9]), np.quantile(rng.beta(2, 5, 100_000), [0.1, 0.5, 0.9]), atol=0.03
    )
    assert len(np.unique(common.match(np.round(image, 1)))) == len(np.unique(np.round(image, 1)))


def test_calibration_on_a_site_keeps_its_rate_and_says_what_is_still_found() -> None:
    rng = np.random.default_rng(0)
    normal = rng.normal(5.0, 1.0, 400)  # far from the detector's own scans, which does not matter
    others = {"disease": (rng.normal(7.0, 1.0, 100), names("d", 100))}
    figures = after_calibration("site", "detector", (normal, names("n", 400)), others, {"fault": normal + 100}, splits=200)
    table = {(line.calibration_scans, line.target): line for line in figures}
    assert sorted(table) == [(n, target) for n in (40, 100, 200) for target in ("disease", "fault", "normal")]
    for count in (40, 100, 200):
        assert table[count, "normal"].flagged == pytest.approx(int(0.05 * (count + 1)) / (count + 1), abs=0.006)
        assert table[count, "fault"].flagged == 1
    assert table[200, "disease"].flagged == pytest.approx(0.64, abs=0.08)
    assert table[40, "normal"].high - table[40, "normal"].low > table[200, "normal"].high - table[200, "normal"].low


def test_no_patient_is_on_both_sides_of_a_calibration() -> None:
    """The same scans under another name are flagged as often: calibration patients are taken from both."""
    patients = np.repeat(names("p", 50), 4)
    scores = np.repeat(np.arange(50.0), 4)
    same = {"same patients": (scores, patients)}
    figures = after_calibration("site", "detector", (scores, patients), same, {}, splits=50)
    by_target = {(line.calibration_scans, line.target): line.flagged for line in figures}
    assert set(by_target) == {(40, "normal"), (40, "same patients"), (100, "normal"), (100, "same patients")}
    assert by_target[40, "normal"] == by_target[40, "same patients"]
    assert by_target[40, "normal"] == pytest.approx(1 / 11, abs=0.03), "10 patients of 4 scans each"


def test_severity_is_a_rank_correlation() -> None:
    rng = np.random.default_rng(0)
    severity = rng.integers(0, 18, 60).astype(float)
    scores = severity + rng.normal(0, 4, 60)
    figure = severity_correlation(scores, severity, names("p", 60), 200, 0)
    assert figure.value == pytest.approx(spearmanr(scores, severity).statistic)
    assert figure.low < figure.value < figure.high


def test_pairs_are_those_of_the_manifest_or_of_the_sources_names() -> None:
    rows = [
        Entry("a", "test", "id_shift", "x_normal"),
        Entry("b", "test", "near", "x_ill"),
        Entry("c", "test", "near", "y_ill"),
    ]
    assert [entry.pair for entry in with_pairs(rows)] == ["x:normal", "x:disease", ""]
    stated = [Entry("a", "test", "near", "z", pair="one:normal two:disease"), *rows]
    assert with_pairs(stated) == stated
    assert stated[0].roles == {"one": "normal", "two": "disease"}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("pair", "nih", "expected NAME:normal or NAME:disease"), ("severity", "much", "expected a number, or nothing")],
)
def test_mistakes_in_the_manifest_are_told(tmp_path: Path, column: str, value: str, message: str) -> None:
    (tmp_path / "m.csv").write_text(f"file,split,group,dataset,{column}\na.png,test,near,x,{value}\n")
    with pytest.raises(MedoodError, match=message):
        read_manifest(tmp_path / "m.csv")


@pytest.fixture(scope="module")
def measured(tiny_detector: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Benchmark, Path]:
    root = tmp_path_factory.mktemp("cross_site")
    rows: list[dict[str, str]] = []

    def add(image: np.ndarray, split: str, group: str, dataset: str, pair: str = "", severity: str = "") -> None:
        Image.fromarray((image * 255).astype(np.uint8)).save(root / f"{len(rows)}.png")
        columns = ("file", "split", "group", "dataset", "pair", "severity")
        rows.append(dict(zip(columns, (f"{len(rows)}.png", split, group, dataset, pair, severity), strict=True)))

    for seed in range(10):
        add(frontal_chest(seed, 64).image, "train", "in_distribution", "phantom")
        add(frontal_chest(50 + seed, 64).image, "test", "in_distribution", "phantom")
        add(frontal_chest(70 + seed, 64).image, "test", "id_shift", "here_normal", "here:normal")
        add(OUTLIERS["opacities"](90 + seed, 64), "test", "near", "here_opacity", "here:disease", str(seed))
    for seed in range(85):
        add(frontal_chest(200 + seed, 64).image, "test", "near", "child_normal", "child:normal")
    add(OUTLIERS["opacities"](300, 64), "test", "near", "child_ill", "child:disease")
    with (root / "manifest.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    detector = Detector.load(tiny_detector)
    return benchmark(detector, root / "manifest.csv", against=detector, repeats=20), root


def test_a_benchmark_measures_pairs_sources_calibration_and_severity(
    measured: tuple[Benchmark, Path], tmp_path: Path
) -> None:
    found = measured[0].cross_site
    scorers = {"detector", "against"}
    assert {(line.pair, line.disease, line.normal) for line in found.pairs} == {("here", 10, 10), ("child", 1, 85)}
    assert {line.scorer for line in found.pairs} >= scorers
    assert {line.dataset for line in found.sources} == {"here_normal"}
    targets = {line.target for line in found.calibrated if line.source == "child_normal"}
    assert {"normal", "child disease", "opacity", "mirror"} <= targets
    assert {line.calibration_scans for line in found.calibrated} == {40}, "10 scans of the other source are too few"
    assert {(line.dataset, line.scans) for line in found.severity} == {("here_opacity", 10)}
    by_scorer = {line.scorer: line for line in found.pairs if line.pair == "here"}
    main = next(line for line in measured[0].comparisons if line.kind == "same source")
    assert by_scorer["detector"].auroc.value == pytest.approx(main.figures["detector"].auroc.value)
    assert by_scorer["detector"].auroc == by_scorer["against"].auroc
    write_benchmark(measured[0], tmp_path, "b")
    for name, count in (("pairs", len(found.pairs)), ("sources", len(found.sources)), ("calibrated", len(found.calibrated))):
        assert len((tmp_path / f"{name}.csv").read_text().splitlines()) == 1 + count
    page = (tmp_path / "benchmark.md").read_text()
    assert "worst (mean)" in page
    assert "After calibration on a source" in page
