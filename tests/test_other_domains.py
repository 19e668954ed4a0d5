"""Domains besides frontal chest radiographs, by configuration alone: colour images, and scans whose sides are mixed."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from medood.config.loader import GREY_SHIFTS
from medood.config.schema import CHEST, PreprocessConfig, ViewsConfig
from medood.detection.detector import Detector
from medood.detection.detector_folder import DetectorMetadata
from medood.distillation.network import Network
from medood.distillation.views import acquire, blur, crop, recolour, sample_view
from medood.errors import MedoodError
from medood.evaluation.acquisition_faults import FAULTS, faults_for
from medood.evaluation.benchmark import benchmark
from medood.evidence.fault_codes import FaultName
from medood.evidence.fault_names import name_faults
from medood.evidence.positions import POSITIONS, Positions, positions
from medood.negatives.mixture import LESIONS, SHIFTS
from medood.reporting.pdf import report
from medood.scans.cache import build_cache
from medood.scans.reader import read_scans
from medood.scans.scan import Scan
from medood.scans.transforms import network_input, preprocessing
from medood.screening.run import screen
from medood.screening.run_options import RunOptions
from medood.workflows.bundle import write_bundle
from medood.workflows.calibrate import calibrate
from medood.workflows.train import train
from medood.workflows.training_data import to_input
from tests.conftest import tiny_config

COLOUR = (
    *("preprocess.channels=3", "views.mirror=0.5", "views.saturation=0.2", "views.hue=0.1", "data.domain=sunset"),
    "negatives.mixture={rot: 1, perm4: 1, inverted: 1, blended_patch: 1, joined_halves: 1, pixel_perm: 1, dead_leaves: 1}",
)


def sunset(seed: int, side: int = 40) -> Image.Image:
    """Blue above, red below, and a yellow sun at a random place in the upper half."""
    rng = np.random.default_rng(seed)
    row, col = np.mgrid[0:side, 0:side] / side
    sky = (row < 0.5 + rng.uniform(-0.05, 0.05))[..., None]
    values = np.where(sky, np.array([0.1, 0.2, 0.8]), np.array([0.7, 0.2, 0.1])) * (0.8 + 0.2 * row[..., None])
    sun = ((row - rng.uniform(0.2, 0.3)) ** 2 + (col - rng.uniform(0.2, 0.8)) ** 2 < 0.01)[..., None]
    values = np.where(sun, np.array([1.0, 0.9, 0.2]), values) + rng.normal(0, 0.02, (side, side, 3))
    return Image.fromarray(np.uint8(values.clip(0, 1) * 255))


def sunsets(folder: Path, seeds: range) -> Path:
    folder.mkdir()
    for seed in seeds:
        sunset(seed).save(folder / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def colour_detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("colour")
    return train(tiny_config(sunsets(root / "train", range(60)), root / "detector", *COLOUR))


def only(path: Path) -> Scan:
    (result,) = read_scans(path)
    assert isinstance(result, Scan)
    return result


@pytest.mark.parametrize("fit", ["squash", "letterbox"])
def test_colours_reach_the_network_and_the_cache_alike(tmp_path: Path, fit: str) -> None:
    root, config = sunsets(tmp_path / "root", range(4)), PreprocessConfig(size=24, fit=fit, channels=3)
    cache = build_cache(root, tmp_path / "cache", config, 24)
    chain = preprocessing(config)
    prepared = []
    for row, scan in zip(to_input(cache.images), read_scans(root), strict=True):
        assert isinstance(scan, Scan)
        prepared.append(network_input(scan, chain))
        assert row.shape == (3, 24, 24)
        assert torch.equal(row, prepared[-1])
    sides = torch.stack([image[:, :8].mean(dim=(1, 2)) for image in prepared])
    assert (sides[:, 2] > sides[:, 0] + 0.2).all()  # the sky is blue
    assert build_cache(root, tmp_path / "cache", PreprocessConfig(size=24, fit=fit), 24).images.shape == (4, 24, 24)


def test_a_grey_scan_has_three_equal_channels(tmp_path: Path) -> None:
    sunset(0).convert("L").save(tmp_path / "grey.png")
    scan = only(tmp_path / "grey.png")
    assert scan.colours is None
    image = network_input(scan, preprocessing(PreprocessConfig(size=24, channels=3)))
    assert torch.equal(image, network_input(scan, preprocessing(PreprocessConfig(size=24))).expand(3, -1, -1))


def test_dicom_keeps_its_colours(tmp_path: Path) -> None:
    picture = sunset(3)
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.7", "1.2.3"
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel, dataset.PlanarConfiguration = 40, 40, 3, 0
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "RGB", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = picture.tobytes()
    dataset.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    scan = only(tmp_path / "a.dcm")
    assert scan.colours is not None
    np.testing.assert_array_equal(scan.colours, np.asarray(picture))


@pytest.mark.parametrize("name", sorted(SHIFTS.keys() - set(GREY_SHIFTS) - {"dead_leaves"}))
def test_a_shift_treats_every_channel_alike(name: str) -> None:
    batch = torch.rand(6, 3, 32, 32, generator=Generator().manual_seed(0))
    drawn = SHIFTS[name].sample(torch.arange(6), 6, 32, Generator().manual_seed(1))
    shifted = SHIFTS[name].apply(batch, drawn, batch)
    for channel in range(3):
        alone = batch[:, channel : channel + 1]
        assert torch.allclose(shifted[:, channel : channel + 1], SHIFTS[name].apply(alone, drawn, alone), atol=1e-6)


def test_a_view_is_mirrored_as_drawn() -> None:
    images = torch.rand(400, 3, 16, 16, generator=Generator().manual_seed(0))
    still = ViewsConfig(rotation=0.0, mirror=0.3, brightness=0, contrast=0, gamma=0, blur=0)
    drawn = sample_view(400, [0.5, 1.0], still, Generator().manual_seed(1))
    assert 0.2 < float(drawn["mirrored"].mean()) < 0.4
    plain = crop(images, {name: value for name, value in drawn.items() if name != "mirrored"}, 16)
    expected = torch.where(drawn["mirrored"].view(-1, 1, 1, 1) > 0, plain.flip(-1), plain)
    assert torch.allclose(crop(images, drawn, 16), expected, atol=1e-5)
    assert "mirrored" not in sample_view(4, [0.5, 1.0], ViewsConfig(), Generator())


def test_saturation_and_hue_keep_the_luminance() -> None:
    views = 0.4 + 0.2 * torch.rand(5, 3, 8, 8, generator=Generator().manual_seed(0))
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)

    def luminance(values: Tensor) -> Tensor:
        return (values * weights).sum(dim=1)

    turned = recolour(views, torch.full((5,), 0.8), torch.linspace(-0.5, 0.5, 5))
    assert torch.allclose(luminance(turned), luminance(views), atol=1e-3)
    assert not torch.allclose(turned, views, atol=0.02)
    assert torch.allclose(recolour(views, torch.ones(5), torch.ones(5)), views, atol=1e-4)
    grey = recolour(views, torch.zeros(5), torch.zeros(5))
    assert torch.allclose(grey, luminance(views)[:, None].expand_as(grey), atol=2e-3)


def test_blur_and_noise_treat_every_channel_alike() -> None:
    views = torch.rand(4, 3, 20, 20, generator=Generator().manual_seed(0))
    sigma = torch.tensor([0.0, 0.5, 1.0, 2.0])
    each = torch.cat([blur(views[:, c : c + 1], sigma) for c in range(3)], dim=1)
    assert torch.allclose(blur(views, sigma), each, atol=1e-6)
    drawn = sample_view(4, [1.0, 1.0], ViewsConfig(saturation=0.3, hue=0.2), Generator().manual_seed(0))
    assert acquire(views, drawn).shape == views.shape


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (["preprocess.channels=2"], "1 or 3"),
        (["views.hue=0.1"], "preprocess.channels=3"),
        (["preprocess.channels=3", "negatives.mixture={opacity: 1}"], "made for radiographs"),
        ([*COLOUR, "detector.appearance=true"], "compares grey"),
        ([*COLOUR, "views.equalize=0.5"], "views.equalize"),
        (["views.mirror=0.5", "negatives.mixture={mirror: 1}"], "cannot both belong and not"),
        (["views.mirror=2"], "a probability"),
    ],
)
def test_what_a_domain_rules_out_is_said_at_once(overrides: list[str], problem: str, tmp_path: Path) -> None:
    with pytest.raises(MedoodError, match=problem):
        tiny_config(tmp_path, tmp_path / "out", *overrides)


def test_a_colour_detector_goes_the_whole_way(colour_detector: Path, tmp_path: Path) -> None:
    detector = Detector.load(colour_detector)
    assert detector.network.backbone.patch_embed.proj.weight.shape[1] == 3
    archive = sunsets(tmp_path / "archive", range(100, 112))
    sunset(200).convert("L").save(archive / "grey.png")
    Image.fromarray(np.asarray(sunset(201))[::-1, :, ::-1]).save(archive / "other.png")
    screen([archive], colour_detector, tmp_path / "run", fpr=0.1, options=RunOptions(workers=1))
    with (tmp_path / "run" / "verdicts.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["status"] for row in rows} == {"scored"}
    assert len(rows) == 14
    scans = [scan for scan in read_scans(archive) if isinstance(scan, Scan)]
    np.testing.assert_allclose(
        [float(row["score"]) for row in sorted(rows, key=lambda row: row["source"])],
        detector.score_samples(sorted(scans, key=lambda scan: scan.identity.source)),
        rtol=1e-4,
        atol=1e-5,
    )
    record = json.loads((report(tmp_path / "run").parent / "record.json").read_text())
    assert len(record["pages"]) == sum(row["decision"] == "out_of_distribution" for row in rows)
    assert all(page["picture"] for page in record["pages"])
    assert FaultName.NOT_A_FRONTAL_CHEST_RADIOGRAPH not in {row["finding"] for row in rows}
    calibrate(colour_detector, sunsets(tmp_path / "site", range(300, 330)), "site", to=tmp_path / "calibrated")
    assert Detector.load(tmp_path / "calibrated", "site").calibration.scores.shape == (30,)
    with pytest.raises(MedoodError, match="colour"):
        write_bundle(colour_detector, tmp_path / "bundle")


def test_the_benchmark_plants_faults_in_colours(colour_detector: Path, tmp_path: Path) -> None:
    rows = [("train", "in_distribution", "here", seed, "") for seed in range(500, 510)]
    rows += [("test", "in_distribution", "here", seed, "") for seed in range(400, 408)]
    rows += [("test", "far", "inverted", seed, "inverted") for seed in range(400, 408)]
    with (tmp_path / "manifest.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "split", "group", "dataset"])
        for split, group, name, seed, change in rows:
            picture = np.asarray(sunset(seed))
            Image.fromarray(255 - picture if change else picture).save(tmp_path / f"{seed}{change}.png")
            writer.writerow([f"{seed}{change}.png", split, group, name])
    results = benchmark(Detector.load(colour_detector), tmp_path / "manifest.csv", repeats=10)
    assert {item.positives for item in results.comparisons if item.kind == "acquisition"} == FAULTS.keys() - {"mirror"}
    np.testing.assert_array_equal(results.scores["acquisition", "inverted"], results.scores["far", "inverted"])


def test_where_mirrored_scans_belong_no_fault_is_a_mirroring(tiny_detector: Path) -> None:
    detector = Detector.load(tiny_detector)
    images = torch.rand(3, 1, 32, 32, generator=Generator().manual_seed(0))
    assert positions(detector, images).names == tuple(POSITIONS)
    assert faults_for(detector.metadata).keys() == FAULTS.keys()
    detector.metadata = DetectorMetadata(config={"views": {"mirror": 0.5}})
    seen = positions(detector, images)
    assert set(POSITIONS) - set(seen.names) == {"mirrored", "flipped upside down"}
    assert seen.scores.shape == (3, 1 + len(seen.names))
    assert FAULTS.keys() - faults_for(detector.metadata).keys() == {"mirror"}


def test_only_a_chest_detector_speaks_of_chests(monkeypatch: pytest.MonkeyPatch, tiny_detector: Path) -> None:
    detector = Detector.load(tiny_detector)
    images = torch.rand(2, 1, 32, 32, generator=Generator().manual_seed(0))
    high = np.full((1, 1 + len(POSITIONS)), 9.0)
    foreign = Positions(high, high, middle=0.0, unit=1.0)
    monkeypatch.setattr("medood.evidence.fault_names.positions", lambda *_: foreign)
    assert name_faults(detector, images, [True, False]) == [FaultName.NOT_A_FRONTAL_CHEST_RADIOGRAPH, ""]
    detector.metadata = DetectorMetadata(config={"data": {"domain": "knee"}})
    assert name_faults(detector, images, [True, False]) == [FaultName.ANOTHER_KIND_OF_IMAGE, ""]
    assert DetectorMetadata(config={"data": {"domain": CHEST}}).is_chest


def test_shifts_made_for_radiographs_are_named() -> None:
    assert set(GREY_SHIFTS) <= SHIFTS.keys()
    assert set(LESIONS) - set(GREY_SHIFTS) == {"displaced"}
    with pytest.raises(RuntimeError):
        Network(tiny_config(Path(), Path()).model, 32)([torch.rand(1, 3, 32, 32)])  # a grey network takes no colours
