from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score

from medood.config.schema import ModelConfig
from medood.detection.detector import Detector
from medood.detection.features import embed
from medood.detection.perceptual_hash import HashIndex, difference_hashes
from medood.detection.scores import SCORES
from medood.distillation.network import Network
from medood.errors import MedoodError
from medood.evaluation.baselines import Trivial, baseline_scores, stack, trivial
from medood.evaluation.benchmark import BASELINES, Benchmark, benchmark
from medood.evaluation.external_baselines import PEERS, fit_peer, frozen_backbone
from medood.evaluation.figures import write_figures
from medood.evaluation.manifest import Entry, read_manifest
from medood.evaluation.shortcuts import shortcut
from medood.evaluation.tables import write_benchmark
from medood.phantom.chest import frontal_chest
from medood.phantom.outliers import OUTLIERS
from medood.progress import Progress
from medood.scans.reader import read_scans
from medood.scans.scan import Scan
from tests.cli.test_commands import medood

PEERS_TRIED = ("sklearn:IsolationForest", "pytorch-ood:Mahalanobis")


def write_manifest(root: Path, extra: list[tuple[Path, str, str]] | None = None) -> Path:
    rows = []

    def add(image: np.ndarray, split: str, group: str, dataset: str, patient: str = "") -> None:
        name = f"{len(rows)}.png"
        Image.fromarray((image * 255).astype(np.uint8)).save(root / name)
        rows.append({"file": name, "split": split, "group": group, "dataset": dataset, "patient_id": patient})

    for seed in range(6):
        add(frontal_chest(seed, 64).image, "train", "in_distribution", "phantom")
        add(frontal_chest(50 + seed, 64).image, "test", "in_distribution", "phantom")
        add(frontal_chest(70 + seed, 64).image, "test", "id_shift", "here_normal", f"p{seed}")
        add(OUTLIERS["opacities"](90 + seed, 64), "test", "near", "here_opacity", f"p{seed}")
        add(OUTLIERS["ct_like"](seed, 64), "test", "far", "ct")
    rows.append({"file": "missing.png", "split": "test", "group": "far", "dataset": "ct", "patient_id": ""})
    for source, group, dataset in extra or []:
        (root / source.name).write_bytes(source.read_bytes())
        rows.append({"file": source.name, "split": "test", "group": group, "dataset": dataset, "patient_id": ""})
    with (root / "manifest.csv").open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root / "manifest.csv"


@pytest.fixture(scope="module")
def measured(tiny_detector: Path, phantom_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Benchmark, Path]:
    """A benchmark with a second detector, two peers, a frozen backbone, and a training scan among the tests."""
    root = tmp_path_factory.mktemp("benchmark")
    detector = Detector.load(tiny_detector)
    learned = {bytes(row).hex() for row in detector.learned.keys.numpy()}
    known = next(s for s in read_scans(phantom_folder) if isinstance(s, Scan) and s.identity.sha256 in learned)
    manifest = write_manifest(root, [(Path(known.identity.source), "id_shift", "here_normal")])
    torch.manual_seed(0)
    backbone = Network(ModelConfig("resnet18", {}, 0.0, 8, 8, 8), 32).backbone
    save_file(backbone.state_dict(), root / "resnet.safetensors")
    frozen = {"resnet18": frozen_backbone("resnet18", root / "resnet.safetensors", detector.preprocess)}
    detector.score_name = "mahalanobis"
    other = Detector.load(tiny_detector)
    other.score_name = "nearest"
    return benchmark(detector, manifest, against=other, backbones=frozen, peers=PEERS_TRIED, repeats=20), root


def test_what_is_compared_with_what_and_by_whom(measured: tuple[Benchmark, Path]) -> None:
    found, _ = measured
    lines = {(line.kind, line.positives): line for line in found.comparisons}
    for kind, name in [
        ("far", "ct"),
        ("near", "here_opacity"),
        ("id_shift", "here_normal"),
        ("acquisition", "rot90"),
        ("acquisition", "mirror"),
        ("near vs id_shift", "here_opacity"),
        ("same source", "here_opacity"),
    ]:
        assert (kind, name) in lines
    expected = {
        "detector",
        "against",
        *BASELINES,
        *(f"score:{name}" for name in SCORES if name not in ("ensemble", "lesions", "rotation")),
    }
    expected |= {"resnet18:nearest", *(f"{stem}{peer}" for stem in ("", "resnet18:") for peer in PEERS_TRIED)}
    assert set(lines["far", "ct"].figures) == expected
    assert lines["far", "ct"].figures["pixel_knn"].auroc.value == 1
    assert lines["near vs id_shift", "here_opacity"].negative_count == 6
    assert [(d.group, d.dataset, d.count) for d in found.decisions if d.group == "far"] == [("far", "ct", 6)]
    assert len(found.missing) == 1
    assert "missing.png" in found.missing[0]


def test_the_figures_are_those_of_the_scores(measured: tuple[Benchmark, Path], tiny_detector: Path) -> None:
    found, root = measured
    detector = Detector.load(tiny_detector)

    def scores(dataset: str, name: str) -> np.ndarray:
        entries = [e for e in read_manifest(root / "manifest.csv") if e.split == "test" and e.dataset == dataset]
        scans = [
            next(iter(read_scans(root / e.file)))
            for e in entries
            if (root / e.file).suffix == ".png" and e.file != "missing.png"
        ]
        images = torch.stack([detector.prepare(scan) for scan in scans if isinstance(scan, Scan)])
        return detector.raw_scores(embed(detector.network, images), name)

    line = next(line for line in found.comparisons if line.kind == "near")
    for scorer, name in (("detector", "mahalanobis"), ("against", "nearest"), ("score:head_entropy", "head_entropy")):
        p, n = scores("here_opacity", name), scores("phantom", name)
        expected = roc_auc_score(np.r_[np.ones(6), np.zeros(6)], np.r_[p, n])
        assert line.figures[scorer].auroc.value == pytest.approx(expected)
    gap = line.figures["detector"].auroc.value - line.figures["against"].auroc.value
    assert line.differences["against"].auroc.value == pytest.approx(gap)


def test_a_scan_that_the_detector_learned_from_is_left_out_and_told(measured: tuple[Benchmark, Path]) -> None:
    found, _ = measured
    leak = found.leaks["id_shift", "here_normal"]
    assert (leak.same_file, len(leak.files)) == (1, 1)
    assert next(line for line in found.comparisons if line.kind == "id_shift").positive_count == 6


def test_the_same_picture_compressed_anew_is_a_leak_too(tiny_detector: Path, phantom_folder: Path, tmp_path: Path) -> None:
    detector = Detector.load(tiny_detector)
    learned = {bytes(row).hex() for row in detector.learned.keys.numpy()}
    known = next(s for s in read_scans(phantom_folder) if isinstance(s, Scan) and s.identity.sha256 in learned)
    copy = tmp_path / "copy.jpg"
    Image.fromarray(np.rint(known.pixels[0] * 255).astype(np.uint8)).save(copy, quality=90)
    (tmp_path / "m").mkdir()
    found = benchmark(detector, write_manifest(tmp_path / "m", [(copy, "near", "here_opacity")]), repeats=10)
    assert found.leaks["near", "here_opacity"].near_learned == 1


def test_tables_page_and_figures(measured: tuple[Benchmark, Path], tmp_path: Path) -> None:
    found, _ = measured
    write_benchmark(found, tmp_path, "A")
    write_figures(found, tmp_path)
    with (tmp_path / "benchmark.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == sum(len(line.figures) for line in found.comparisons)
    assert all(float(row["auroc_low"]) <= float(row["auroc_high"]) for row in rows)
    body = json.loads((tmp_path / "benchmark.json").read_text())
    assert len(body["comparisons"]) == len(found.comparisons)
    assert body["leaks"]["id_shift/here_normal"]["same_file"] == 1
    page = (tmp_path / "benchmark.md").read_text()
    for heading in (
        "Which score",
        "shortcut audit",
        "calibrated decision",
        "Against",
        "libraries",
        "knew them",
        "not be read",
    ):
        assert heading in page
    for name in ("roc", "densities", "auroc"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.width > 400
            assert np.asarray(image.convert("L")).std() > 5


def test_the_same_run_gives_the_same_bytes(tiny_detector: Path, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path)
    for name in ("one", "two"):
        write_benchmark(benchmark(Detector.load(tiny_detector), manifest, repeats=10), tmp_path / name, "A")
    for file in ("benchmark.csv", "benchmark.json", "benchmark.md"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_files_that_are_not_there_are_told_before_any_is_read(
    tiny_detector: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = write_manifest(tmp_path)
    order = list[str]()
    monkeypatch.setattr(Progress, "say", lambda self, text: order.append(text))
    monkeypatch.setattr("medood.evaluation.benchmark.collect", lambda *_: order.append("reads"))
    with pytest.raises(AttributeError):  # nothing was read
        benchmark(Detector.load(tiny_detector), manifest, progress=Progress())
    assert order == [f"1 of the 31 files of {manifest} are not there and are left out, such as missing.png", "reads"]
    for path in tmp_path.glob("*.png"):
        path.unlink()
    done = medood("benchmark", "no-such-detector", "--data", manifest, "--out", tmp_path / "out", check=2)
    assert "of the split test there is none (6 are named, and none of them is there" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_command(tiny_detector: Path, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path)
    arguments = ("benchmark", tiny_detector, "--data", manifest, "--out", tmp_path / "out")
    done = medood(*arguments, "--repeats", "10", "--external", "sklearn:LocalOutlierFactor")
    assert done.stdout.strip() == str(tmp_path / "out" / "benchmark.csv")
    assert "missing.png" in done.stderr
    assert "Did you mean 'sklearn:OneClassSVM'" in medood(*arguments, "--external", "sklearn:OneClassSvm", check=2).stderr
    assert "go together" in medood(*arguments, "--backbone", "resnet18", check=2).stderr


def test_manifests_that_cannot_be_used_are_told(tiny_detector: Path, tmp_path: Path) -> None:
    detector = Detector.load(tiny_detector)
    with pytest.raises(MedoodError, match="cannot be read"):
        benchmark(detector, tmp_path / "none.csv")
    for name, text, told in [
        ("a", "file,split\nx,test\n", "column 'group'"),
        ("b", "file,split,group,dataset\nx.png,test,in_distribution,a\n", "needs rows"),
        ("c", "file,split,group,dataset\nx.png,val,in_distribution,a\n", "line 2: split is 'val'"),
        ("d", "file,split,group,dataset\nx.png,test,nearby,a\n", "line 2: group is 'nearby'"),
        ("f", "file;split;group;dataset\nx.png;val;near;a\n", "line 2: split is 'val'"),
        ("e", "file,split,group,dataset\n,test,near,a\n", "must not be empty"),
    ]:
        (tmp_path / f"{name}.csv").write_text(text)
        with pytest.raises(MedoodError, match=told):
            benchmark(detector, tmp_path / f"{name}.csv")


def test_names_with_markup_and_files_of_several_pages_stop_nothing(tiny_detector: Path, tmp_path: Path) -> None:
    pages = [Image.fromarray((frontal_chest(i, 64).image * 255).astype(np.uint8)) for i in (90, 91)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    (tmp_path / "m").mkdir()
    manifest = write_manifest(tmp_path / "m", [(tmp_path / "pages.tif", "far", "odd$\\%\\foo$ | name \udcf6")])
    found = benchmark(Detector.load(tiny_detector), manifest, repeats=10)
    write_benchmark(found, tmp_path / "out", "A")
    write_figures(found, tmp_path / "out")
    assert any("pages.tif: only its first frame was used" in line for line in found.missing)
    page = (tmp_path / "out" / "benchmark.md").read_text()
    assert r"odd$\%\foo$ \| name" in page
    odd = next(line for line in found.comparisons if line.kind == "far" and line.positives.startswith("odd"))
    assert np.isnan(odd.figures["detector"].auroc.low), "one patient gives no interval"


def test_rates_that_the_calibration_cannot_state_are_left_open(tiny_detector: Path, tmp_path: Path) -> None:
    found = benchmark(Detector.load(tiny_detector), write_manifest(tmp_path), repeats=10)  # 16 calibration scans
    assert all(np.isnan(figure.value) for line in found.decisions for figure in line.flagged.values())
    write_benchmark(found, tmp_path / "out", "A")
    assert json.loads((tmp_path / "out" / "benchmark.json").read_text())["decisions"][0]["flagged"]["0.05"]["value"] is None


def test_faults_do_not_depend_on_what_else_is_in_the_manifest(tiny_detector: Path, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path)
    whole = benchmark(Detector.load(tiny_detector), manifest, repeats=10).scores["acquisition", "perm4"]
    lines = manifest.read_text().splitlines()
    tests = [i for i, line in enumerate(lines) if ",test,in_distribution," in line]
    (tmp_path / "fewer.csv").write_text("\n".join(line for i, line in enumerate(lines) if i != tests[0]) + "\n")
    fewer = benchmark(Detector.load(tiny_detector), tmp_path / "fewer.csv", repeats=10).scores["acquisition", "perm4"]
    np.testing.assert_allclose(fewer, whole[1:], rtol=1e-4)


def test_in_distribution_alone_is_measured_by_faults(tiny_detector: Path, tmp_path: Path) -> None:
    write_manifest(tmp_path)
    lines = (tmp_path / "manifest.csv").read_text().splitlines()
    (tmp_path / "one.csv").write_text("\n".join([lines[0], *(line for line in lines if "in_distribution" in line)]) + "\n")
    found = benchmark(Detector.load(tiny_detector), tmp_path / "one.csv", repeats=10)
    assert {line.kind for line in found.comparisons} == {"acquisition"}
    write_benchmark(found, tmp_path / "out", "A")
    write_figures(found, tmp_path / "out")


def test_patients_are_told_apart_by_source() -> None:
    one, other = (Entry("f", "test", "near", f"nih_{name}", "7") for name in ("normal", "pneumonia"))
    assert one.patient == other.patient
    assert one.patient != Entry("f", "test", "near", "cohen_covid", "7").patient
    assert Entry("f", "test", "near", "a").patient != Entry("g", "test", "near", "a").patient


def test_baselines_find_what_they_are_made_for() -> None:
    rng = np.random.default_rng(0)

    def rows(count: int, grey: float, size: int) -> Trivial:
        return stack(
            [
                trivial(scan, size)
                for scan in (
                    Scan(identity=None, pixels=np.clip(rng.normal(grey, 0.1, (1, 40, 50)), 0, 1).astype(np.float32))  # type: ignore[arg-type]
                    for _ in range(count)
                )
            ]
        )

    here, there, large = rows(60, 0.4, 1000), rows(20, 0.7, 1000), rows(20, 0.4, 90000)
    found = baseline_scores(here, {("a", "own"): rows(20, 0.4, 1000), ("a", "bright"): there, ("a", "large"): large})
    assert set(found) == set(BASELINES)
    assert found["grey_statistics"]["a", "bright"].min() > found["grey_statistics"]["a", "own"].max()
    assert found["file_facts"]["a", "large"].min() > found["file_facts"]["a", "own"].max()
    np.testing.assert_allclose(here.file[0], np.log([40, 50, 40 / 50, 1000]), rtol=1e-6)
    names = np.array([f"p{i}" for i in range(20)])
    audit = shortcut(there, rows(20, 0.4, 1000), names, np.char.add("q", names))
    assert audit.grey > 0.95
    assert audit.file == 0.5
    assert np.isnan(shortcut(there, rows(3, 0.4, 1), names, names[:3]).grey)


@pytest.mark.parametrize("name", PEERS)
def test_peers_score_higher_away_from_the_bank(name: str) -> None:
    pytest.importorskip("pytorch_ood")
    generator = torch.Generator().manual_seed(0)
    bank = torch.nn.functional.normalize(torch.randn(200, 8, generator=generator) + 2, dim=1)
    near = torch.nn.functional.normalize(torch.randn(30, 8, generator=generator) + 2, dim=1)
    score = fit_peer(name, bank)
    assert score(-near).min() > score(near).mean()


def test_a_peer_is_the_librarys_own() -> None:
    bank, rows = torch.rand(50, 4), torch.rand(9, 4)
    expected = -IsolationForest(random_state=0).fit(bank.double().numpy()).score_samples(rows.double().numpy())
    np.testing.assert_allclose(fit_peer("sklearn:IsolationForest", bank)(rows), expected)


def test_hash_distances_against_a_count() -> None:
    images = torch.rand(7, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    hashes = difference_hashes(images)
    bits = np.unpackbits(hashes, axis=1)
    expected = (bits[:3, None] != bits[None, 3:]).sum(axis=2)
    distances, places = HashIndex(hashes[3:]).nearest(hashes[:3])
    np.testing.assert_array_equal(distances, expected.min(axis=1))
    np.testing.assert_array_equal(expected[np.arange(3), places], distances)
    assert HashIndex(hashes).nearest(hashes)[0].max() == 0
    assert HashIndex(hashes[:0]).nearest(hashes)[0].min() == 256
