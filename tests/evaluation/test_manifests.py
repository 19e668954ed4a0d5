"""Data cards and the manifests made with them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medood.detection.perceptual_hash import near_pairs
from medood.errors import MedoodError
from medood.evaluation.data_cards import cards, find_card, load_card
from medood.evaluation.manifest import read_manifest
from medood.evaluation.manifest_builder import check_manifest, make_manifest, write_manifest
from medood.phantom.chest import frontal_chest
from tests.cli.test_commands import medood

#: A few files and labels of each set, laid out as its owner publishes it; what becomes of each: group, data set, patient.
LAYOUTS: dict[str, tuple[dict[str, str], dict[str, tuple[str, str, str] | None]]] = {
    "nih_chestxray14": (
        {
            "Data_Entry_2017.csv": "Image Index,Finding Labels,Patient ID,View Position,OriginalImage[Width,Height],\n"
            "00000001_000.png,No Finding,1,PA,1,2,\n00000002_001.png,Mass|Pneumonia,2,AP,1,2,\n"
            "00000003_000.png,Hernia,3,PA,1,2,\n"
        },
        {
            "images/00000001_000.png": ("normal", "nih_normal", "00000001"),
            "images_002/images/00000002_001.png": ("near", "nih_pneumonia", "00000002"),
            "images/00000003_000.png": ("near", "nih_other_finding", "00000003"),
            "images/00000009_000.png": None,
        },
    ),
    "rsna_pneumonia_2018": (
        {
            "stage_2_detailed_class_info.csv": "patientId,class\na1,Normal\nb2,Lung Opacity\nb2,Lung Opacity\n"
            "c3,No Lung Opacity / Not Normal\n",
            "pneumonia-challenge-dataset-mappings_2018.json": json.dumps(
                [{"img_id": "00000007_003.png", "subset_img_id": "a1", "orig_labels": ["No Finding"]}]
            ),
        },
        {
            "stage_2_train_images/a1.dcm": ("normal", "nih_rsna_normal", "00000007"),
            "stage_2_train_images/b2.dcm": ("near", "nih_rsna_opacity", ""),
            "stage_2_train_images/c3.dcm": ("near", "nih_rsna_other", ""),
        },
    ),
    "kneekl224": (
        {},
        {
            "train/0/9001695L.png": ("normal", "oai_kl0", "9001695"),
            "val/0/9001695R.png": ("normal", "oai_kl0", "9001695"),
            "train/1/9001897R.png": ("near", "oai_kl1", "9001897"),
            "test/2/9002817L.png": ("near", "oai_kl2", "9002817"),
            "test/3/9003316L.png": ("near", "oai_kl34", "9003316"),
            "train/4/9003430R.png": ("near", "oai_kl34", "9003430"),
        },
    ),
    "cohen_covid19": (
        {
            "metadata.csv": "patientid,finding,view,modality,filename,clinical_notes,\n"
            '2,Pneumonia/Viral/COVID-19,PA,X-ray,a.jpg,"two\nlines, and a comma",\n3,COVID-19,AP Supine,X-ray,b.png,,\n'
            "4,Pneumonia/Bacterial,PA,X-ray,c.jpeg,,\n4,Pneumonia/Viral/COVID-19,L,X-ray,d.jpg,,\n5,Unknown,Axial,CT,e.jpg,,\n"
        },
        {
            "images/a.jpg": ("near", "cohen_covid", "2"),
            "images/b.png": ("near", "cohen_covid", "3"),
            "images/c.jpeg": ("near", "cohen_other", "4"),
            "images/d.jpg": ("near", "cohen_lateral", "4"),
            "images/e.jpg": ("far", "cohen_ct", "5"),
        },
    ),
    "bimcv_covid19_plus": (
        {},
        {
            "sub-S03044/ses-E06123/mod-rx/sub-S03044_ses-E06123_run-1_bp-chest_vp-ap_dx.png": (
                "near",
                "bimcv_covid",
                "sub-S03044",
            ),
            "sub-S03045/ses-E1/mod-rx/sub-S03045_ses-E1_run-1_bp-chest_vp-lateral_cr.png": (
                "near",
                "bimcv_lateral",
                "sub-S03045",
            ),
        },
    ),
    "kermany_paediatric": (
        {},
        {
            "chest_xray/train/PNEUMONIA/person1_bacteria_1.jpeg": ("near", "kermany_paediatric_pneumonia", "person1"),
            "chest_xray/test/PNEUMONIA/person1_virus_6.jpeg": ("near", "kermany_paediatric_pneumonia", "person1"),
            "chest_xray/test/NORMAL/NORMAL2-IM-0027-0001.jpeg": ("near", "kermany_paediatric_normal", "NORMAL2-IM-0027"),
            "chest_xray/val/NORMAL/NORMAL-1003233-0001.jpeg": ("near", "kermany_paediatric_normal", "NORMAL-1003233"),
        },
    ),
    "padchest": (
        {
            "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv": ",ImageID,ImageDir,PatientID,Projection,Labels\n"
            "0,1_a.png,0,839860488694292331637988235681460987,PA,['normal']\n"
            "1,2_b.png,0,12,AP,\"['pneumonia', 'kyphosis']\"\n"
            "2,3_c.png,3,13,L,['normal']\n3,4_d.png,3,14,PA,\"['unchanged', 'atypical pneumonia']\"\n"
        },
        {
            "0/1_a.png": ("normal", "padchest_normal", "839860488694292331637988235681460987"),
            "0/2_b.png": ("near", "padchest_pneumonia", "12"),
            "3/3_c.png": ("near", "padchest_lateral", "13"),
            "3/4_d.png": None,
        },
    ),
    "vindr_cxr": (
        {
            "annotations/image_labels_train.csv": "image_id,rad_id,Pneumonia,Tuberculosis,No finding\n"
            "aa,R1,0,0,1\naa,R2,0,0,1\nbb,R1,1,0,0\nbb,R2,0,0,1\ncc,R1,0,1,0\ncc,R2,0,1,0\n",
            "annotations/image_labels_test.csv": "image_id,Pneumonia,Tuberculosis,No finding\ndd,0,0,0\n",
        },
        {
            "train/aa.dicom": ("normal", "vindr_normal", ""),
            "train/bb.dicom": None,
            "train/cc.dicom": ("near", "vindr_tuberculosis", ""),
            "test/dd.dicom": ("near", "vindr_other_finding", ""),
        },
    ),
    "chexpert": (
        {
            "train.csv": "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Pneumonia,Support Devices\n"
            "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,F,1,Frontal,AP,1.0,,\n"
            "CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg,F,1,Frontal,AP,1.0,,1.0\n"
            "CheXpert-v1.0-small/train/patient00002/study1/view2_lateral.jpg,F,1,Lateral,,1.0,,1.0\n",
            "valid.csv": "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Pneumonia,Support Devices\n"
            "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg,F,1,Frontal,AP,0.0,1.0,0.0\n",
        },
        {
            "train/patient00001/study1/view1_frontal.jpg": ("normal", "chexpert_normal", "patient00001"),
            "train/patient00002/study1/view1_frontal.jpg": None,
            "train/patient00002/study1/view2_lateral.jpg": ("near", "chexpert_lateral", "patient00002"),
            "valid/patient64541/study1/view1_frontal.jpg": ("near", "chexpert_pneumonia", "patient64541"),
        },
    ),
    "shenzhen_montgomery_tb": (
        {},
        {
            "ChinaSet_AllFiles/CXR_png/CHNCXR_0001_0.png": ("normal", "shenzhen_normal", "CHNCXR_0001"),
            "ChinaSet_AllFiles/CXR_png/CHNCXR_0327_1.png": ("near", "shenzhen_tuberculosis", "CHNCXR_0327"),
            "MontgomerySet/CXR_png/MCUCXR_0104_1.png": ("near", "montgomery_tuberculosis", "MCUCXR_0104"),
            "MontgomerySet/CXR_png/MCUCXR_0001_0.png": ("normal", "montgomery_normal", "MCUCXR_0001"),
        },
    ),
    "mura": ({}, {"MURA-v1.1/valid/XR_WRIST/patient11185/study1_positive/image1.png": ("far", "mura", "patient11185")}),
    "cifar10": ({}, {"test/00001.png": ("far", "cifar10", "")}),
}


def lay_out(key: str, root: Path) -> Path:
    texts, files = LAYOUTS[key]
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not looked at")
    return root


@pytest.mark.parametrize("key", LAYOUTS)
def test_each_card_reads_its_sets_layout(key: str, tmp_path: Path) -> None:
    made = make_manifest(find_card(key), lay_out(key, tmp_path), read_images=False)
    expected = {
        file: ("id_shift" if row[0] == "normal" else row[0], *row[1:]) for file, row in LAYOUTS[key][1].items() if row
    }
    assert {entry.file: (entry.group, entry.dataset, entry.patient_id) for entry in made.entries} == expected
    assert made.no_rule + made.no_label == len(LAYOUTS[key][1]) - len(expected)


def test_every_card_is_tried_and_marks_what_could_not_be_checked() -> None:
    assert {card.key for card in cards()} == set(LAYOUTS)
    for card in cards():
        assert card.unchecked, "no licence's text could be read offline"


def films(folder: Path, count: int) -> Path:
    """Shenzhen's names over phantom chests: two normal radiographs for each with tuberculosis."""
    (folder / "CXR_png").mkdir(parents=True)
    for number in range(count):
        image = Image.fromarray((frontal_chest(number, 64).image * 255).astype(np.uint8))
        image.save(folder / "CXR_png" / f"CHNCXR_{number:04d}_{int(number % 3 == 2)}.png")
    return folder


def test_an_in_distribution_set_is_split_by_patient_and_copies_are_found(tmp_path: Path) -> None:
    root = films(tmp_path / "set", 60)
    folder = root / "CXR_png"
    (folder / "CHNCXR_0900_0.png").write_bytes((folder / "CHNCXR_0000_0.png").read_bytes())
    Image.open(folder / "CHNCXR_0001_0.png").save(folder / "CHNCXR_0901_0.png", compress_level=1)
    (folder / "CHNCXR_0902_0.png").write_bytes(b"cut")
    made = make_manifest(find_card("shenzhen_montgomery_tb"), root, normal="in_distribution")
    assert made.same_content == ["CXR_png/CHNCXR_0900_0.png"]
    assert [item.split(":")[0] for item in made.unreadable] == ["CXR_png/CHNCXR_0902_0.png"]
    pair = ("CXR_png/CHNCXR_0001_0.png", "CXR_png/CHNCXR_0901_0.png")
    assert pair in made.near_pairs
    split = {entry.file: entry.split for entry in made.entries}
    assert split[pair[0]] == split[pair[1]]
    normal = [entry for entry in made.entries if entry.dataset == "shenzhen_normal"]
    shares = {name: sum(e.split == name for e in normal) / len(normal) for name in ("train", "calibration", "test")}
    assert shares["train"] == pytest.approx(0.7, abs=0.15)
    assert min(shares.values()) > 0
    assert {entry.split for entry in made.entries if entry.group == "near"} == {"test"}
    assert make_manifest(find_card("shenzhen_montgomery_tb"), root, normal="in_distribution").entries == made.entries
    assert make_manifest(find_card("shenzhen_montgomery_tb"), root, normal="in_distribution", seed=1).entries != made.entries


def test_manifests_are_added_up_and_checked(tmp_path: Path) -> None:
    root = films(tmp_path / "set", 40)
    target = tmp_path / "out" / "manifest.csv"
    told = medood("data", "manifest", "shenzhen_montgomery_tb", root, "--out", target, "--normal", "in_distribution")
    assert "no formal licence found" in told.stderr
    (tmp_path / "photos").mkdir()
    for number in range(3):
        noise = np.random.default_rng(number).integers(0, 256, (32, 32), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "photos" / f"{number}.png")
    photos = make_manifest(find_card("cifar10"), tmp_path / "photos")
    with pytest.raises(MedoodError, match="Add --append"):
        write_manifest(photos, tmp_path / "photos", target, append=False)
    medood("data", "manifest", "cifar10", tmp_path / "photos", "--out", target, "--append")
    with pytest.raises(MedoodError, match="already holds cifar10"):
        write_manifest(photos, tmp_path / "photos", target, append=True)
    entries = read_manifest(target)
    assert all((target.parent / entry.file).is_file() for entry in entries)
    done = medood("data", "check", target)
    assert "far/cifar10, test" in done.stdout

    rows = list(csv.DictReader(target.open(newline="")))
    train = next(row for row in rows if row["split"] == "train")
    test = next(row for row in rows if row["split"] == "test" and row["dataset"] == "shenzhen_normal")
    test["patient_id"] = train["patient_id"]
    rows.append({**train, "file": "../gone.png", "patient_id": ""})
    rows.append({**next(row for row in rows if row["group"] == "far"), "split": "train", "file": rows[-2]["file"]})
    with target.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    problems = "\n".join(check_manifest(target).problems)
    for expected in ("gone.png", "is in test and train", "is in more than one row", "rows outside the group", "same bytes"):
        assert expected in problems
    assert "problems" in medood("data", "check", target, "--quiet", check=2).stderr


def test_a_copy_on_the_other_side_of_a_split_is_a_problem(tmp_path: Path) -> None:
    image = Image.fromarray((frontal_chest(1, 64).image * 255).astype(np.uint8))
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.jpg", quality=90)
    text = "file,split,group,dataset\na.png,train,in_distribution,x\nb.jpg,test,in_distribution,x\n"
    (tmp_path / "m.csv").write_text(text)
    (problem,) = check_manifest(tmp_path / "m.csv").problems
    assert problem == "a.png (train) and b.jpg (test) are nearly the same image"


def test_a_patient_with_disease_is_a_test_whole_and_so_is_a_copy(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    lines = ["Image Index,Finding Labels,Patient ID"]
    for patient in range(40):
        for visit, label in enumerate(["No Finding", "Mass"] if patient < 10 else ["No Finding", "No Finding"]):
            name = f"{patient:08d}_{visit:03d}.png"
            image = Image.fromarray((frontal_chest(2 * patient + visit, 64).image * 255).astype(np.uint8))
            image.save(tmp_path / "images" / name)
            lines.append(f"{name},{label},{patient}")
    Image.open(tmp_path / "images" / "00000030_000.png").save(tmp_path / "images" / "00000099_000.png", compress_level=1)
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join([*lines, "00000099_000.png,Mass,99"]) + "\n")
    made = make_manifest(find_card("nih_chestxray14"), tmp_path, normal="in_distribution")
    write_manifest(made, tmp_path, tmp_path / "m.csv", append=False)
    assert check_manifest(tmp_path / "m.csv").problems == []
    assert {entry.split for entry in made.entries if entry.patient_id in ("00000003", "00000030", "00000099")} == {"test"}
    assert {entry.split for entry in made.entries if entry.group == "in_distribution"} == {"train", "calibration", "test"}
    few = make_manifest(find_card("shenzhen_montgomery_tb"), films(tmp_path / "few", 3), normal="in_distribution")
    assert "the split test of the in-distribution scans is empty" in few.notes


def test_odd_names_and_neighbours_are_left_as_they_are(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("L", (32, 32), 9).save(photos / "h\udcf4pital.png")
    (tmp_path / "keep.part").write_text("mine")
    made = make_manifest(find_card("cifar10"), photos)
    write_manifest(made, photos, tmp_path / "keep.csv", append=False)
    assert (tmp_path / "keep.part").read_text() == "mine"
    (entry,) = read_manifest(tmp_path / "keep.csv")
    assert (tmp_path / entry.file).is_file()


@pytest.mark.parametrize("text", ["[1, 2]", "7", '[{"img_id": "a"}]', "{"])
def test_a_label_table_that_is_no_table_is_told(text: str, tmp_path: Path) -> None:
    root = lay_out("rsna_pneumonia_2018", tmp_path)
    (root / "pneumonia-challenge-dataset-mappings_2018.json").write_text(text)
    with pytest.raises(MedoodError, match=r"mappings_2018\.json (cannot be read as the labels|has no column)"):
        make_manifest(find_card("rsna_pneumonia_2018"), root, read_images=False)


def test_what_cannot_be_used_is_told(tmp_path: Path) -> None:
    with pytest.raises(MedoodError, match="Did you mean 'nih_chestxray14'"):
        find_card("nih")
    card = find_card("nih_chestxray14")
    with pytest.raises(MedoodError, match="is no folder"):
        make_manifest(card, tmp_path / "none")
    with pytest.raises(MedoodError, match="holds no file like"):
        make_manifest(card, tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "00000001_000.png").write_bytes(b"")
    with pytest.raises(MedoodError, match=r"does not hold Data_Entry_2017_v2020.csv or"):
        make_manifest(card, tmp_path)
    (tmp_path / "Data_Entry_2017.csv").write_text("Image,Label\na,b\n")
    with pytest.raises(MedoodError, match="no column 'Image Index'; it has: Image, Label"):
        make_manifest(card, tmp_path)
    with pytest.raises(MedoodError, match="--normal is"):
        make_manifest(card, tmp_path, normal="far")
    (tmp_path / "bad.yaml").write_text("name: x\nrecipe: {files: [a], rules: [], more: 1}\n")
    with pytest.raises(MedoodError, match=r"bad\.yaml cannot be used"):
        load_card(tmp_path / "bad.yaml")


def test_the_list_prints_cards() -> None:
    text = medood("data", "list").stdout
    assert all(key in text for key in LAYOUTS)
    assert "unchecked:" in medood("data", "list", "mura").stdout


def test_near_pairs_against_a_double_loop() -> None:
    hashes = np.random.default_rng(0).integers(0, 256, (40, 32), dtype=np.uint8)
    hashes[7] = hashes[3]
    hashes[7, 0] ^= 5
    bits = np.unpackbits(hashes, axis=1)
    expected = [(i, j) for i in range(40) for j in range(i + 1, 40) if (bits[i] != bits[j]).sum() <= 110]
    assert near_pairs(hashes, 110) == expected
    assert near_pairs(hashes, 2) == [(3, 7)]
    flat = np.zeros((3000, 32), dtype=np.uint8)
    assert near_pairs(flat, 6) == [(0, i) for i in range(1, 3000)], "images without contrast are linked, not squared"


def test_an_empty_manifest_written_by_hand_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("")
    lay_out("chexpert", tmp_path / "chexpert")
    for name in ("train.csv", "valid.csv"):
        (tmp_path / "chexpert" / name).unlink()
    with pytest.raises(MedoodError, match="none of 4 files became a row"):
        make_manifest(find_card("chexpert"), tmp_path / "chexpert", read_images=False)
    with pytest.raises(MedoodError, match="column 'file' is missing"):
        write_manifest(
            make_manifest(find_card("mura"), lay_out("mura", tmp_path / "mura"), read_images=False),
            tmp_path / "mura",
            tmp_path / "m.csv",
            True,
        )
