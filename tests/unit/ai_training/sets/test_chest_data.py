"""Where chest images come from: the NIH download as it is, and a site's own manifest."""

from __future__ import annotations

import csv
import math
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from ai_pipeline.models.registry import Chain
from ai_training.errors import DataMissing
from ai_training.sets.chest import (
    boxes_of,
    chest_images,
    chest_set,
    label_matrix,
    reduced_images,
    truth_boxes,
)
from ai_training.sets.files import read_grey
from ai_training.sets.images import LABELS
from ai_training.sets.layout import years
from tests.unit.ai_training.nih_lab import nih_download


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nih_download(tmp_path_factory.mktemp("nih"))


def test_the_download_is_recognised_and_read_whole(download: Path) -> None:
    found = chest_set(download)

    assert (found.name, len(found.images), found.main) == ("NIH ChestX-ray14", 80, "nih")
    image = next(image for image in found.images if image.path.name == "00000005_001.png")
    assert [name for name, mark in zip(LABELS, image.labels, strict=True) if mark] == [
        "Cardiomegaly",
        "Effusion",
    ]
    assert (image.patient, image.age, image.sex, image.view) == ("00000005", 35.0, "F", "PA")


def test_the_official_lists_are_kept_and_val_shares_no_patient(download: Path) -> None:
    splits: dict[str, set[str]] = {}
    for image in chest_images(download):
        splits.setdefault(image.split, set()).add(image.patient)

    assert splits["test"] == {f"{number:08d}" for number in range(31, 41)}
    assert len(splits["val"]) == round(0.125 * 30)
    assert not splits["train"] & splits["val"]


def test_one_folder_of_images_gives_the_same_table(download: Path, tmp_path: Path) -> None:
    flat = nih_download(tmp_path / "flat", archives=False)

    def table(folder: Path) -> list[tuple[object, ...]]:
        return [(i.path.name, i.labels, i.split, i.patient) for i in chest_images(folder)]

    assert table(flat) == table(download)


def test_val_is_the_same_however_much_is_unpacked(download: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    shutil.copytree(download, part, ignore=shutil.ignore_patterns("images_002"))
    whole = {image.path.name: image.split for image in chest_images(download)}

    found = chest_set(part)

    assert len(found.images) == 40
    assert all(whole[image.path.name] == image.split for image in found.images)
    assert any("40 of 80 listed images are not there" in note for note in found.notes)


def test_the_newer_table_is_taken_when_both_are_there(download: Path, tmp_path: Path) -> None:
    folder = tmp_path / "both"
    shutil.copytree(download, folder)
    table = (folder / "Data_Entry_2017.csv").read_text()
    newer = table.replace("Patient Gender", "Patient Sex").replace(",F,", ",M,")
    (folder / "Data_Entry_2017_v2020.csv").write_text(newer)

    assert {image.sex for image in chest_images(folder)} == {"M"}


@pytest.mark.parametrize("name", ["train_val_list.txt", "test_list.txt"])
def test_a_missing_list_is_named(download: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "torn"
    shutil.copytree(download, folder)
    (folder / name).unlink()

    with pytest.raises(DataMissing, match=name):
        chest_images(folder)


def test_archives_that_were_not_unpacked_are_said_to_be_missing(download: Path, tmp_path: Path) -> None:
    for name in ("Data_Entry_2017.csv", "train_val_list.txt", "test_list.txt"):
        shutil.copy(download / name, tmp_path / name)

    with pytest.raises(DataMissing, match="unpack the archives"):
        chest_images(tmp_path)


def test_boxes_are_read_by_place_and_renamed(download: Path) -> None:
    boxes = {box.label: box for box in truth_boxes(download)}

    assert set(boxes) == {"Infiltration", "Effusion"}  # not Infiltrate, and not of an image that is not there
    assert boxes["Infiltration"].split == "test"
    assert boxes["Effusion"].right == pytest.approx(300.0)
    shares = [found for found in boxes_of(download, chest_images(download)) if found]
    assert (LABELS.index("Effusion"), 100 / 1024, 700.5 / 1024, 300 / 1024, 850.5 / 1024) in shares[0]


@pytest.mark.parametrize(
    ("text", "age"), [("058Y", 58.0), ("58", 58.0), ("006M", 0.5), ("007D", 7 / 365.25), ("60.5", 60.5)]
)
def test_ages_are_years_whatever_their_unit(text: str, age: float) -> None:
    assert years(text) == pytest.approx(age)


@pytest.mark.parametrize("text", ["414", "", "unknown", "-3"])
def test_an_age_that_is_none_is_unknown(text: str) -> None:
    assert math.isnan(years(text))


def test_children_and_unknown_ages_are_outside_the_intended_use(download: Path) -> None:
    images = chest_images(download)

    assert {image.patient for image in images if not image.adult} == {
        "00000002",  # 414 years
        "00000003",  # 9
        "00000004",  # 6 months
    }


def test_an_rgba_file_is_read_as_grey(download: Path) -> None:
    image = next(image for image in chest_images(download) if image.patient == "00000005")

    grey = read_grey(image.path)

    assert grey.shape == (128, 128)
    assert cv2.imread(str(image.path), cv2.IMREAD_UNCHANGED).shape == (128, 128, 4)


def test_the_cache_of_reduced_images_knows_two_sets_of_the_same_names(download: Path, tmp_path: Path) -> None:
    other = nih_download(tmp_path / "other", patients=4, side=96)
    cache, chain = tmp_path / "cache", Chain(side=64)
    names = {image.path.name for image in chest_images(other)}
    same = [image for image in chest_images(download) if image.path.name in names]

    first = np.array(reduced_images(same, chain, cache))
    second = reduced_images(chest_images(other), chain, cache)

    assert first.shape == second.shape
    assert not np.array_equal(first, second)


def test_a_manifest_of_ones_own_is_read(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path, [("a.jpg", "p1", "70", "1", ""), ("b.png", "p2", "15", "", "1")])

    found = chest_set(manifest)

    assert found.labels == ("Effusion", "Mass")
    assert [image.adult for image in found.images] == [True, False]
    assert label_matrix(found.images)[:, LABELS.index("Effusion")].tolist() == [1.0, 0.0]
    assert all(image.is_in("test") and image.is_in("val") for image in found.images)  # it has no splits
    assert read_grey(found.images[1].path).shape == (64, 48)


def test_a_folder_with_a_manifest_is_as_good_as_the_manifest(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path, [("a.jpg", "p1", "70", "1", "0")])

    assert chest_set(tmp_path).images == chest_set(manifest).images


def test_training_refuses_a_manifest_without_all_labels(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path, [("a.jpg", "p1", "70", "1", "0")])

    with pytest.raises(DataMissing, match="Atelectasis"):
        chest_images(manifest)


def test_a_manifest_without_age_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text("file,patient_id,Effusion\na.jpg,p1,1\n")

    with pytest.raises(DataMissing, match="age"):
        chest_set(tmp_path)


def test_a_patient_in_two_splits_is_refused_and_not_named(tmp_path: Path) -> None:
    (tmp_path / "manifest.csv").write_text(
        "file,patient_id,age,Effusion,split\na.jpg,SECRET,50,1,train\nb.jpg,SECRET,50,1,test\n"
    )

    with pytest.raises(DataMissing, match="1 patients are in more than one split") as caught:
        chest_set(tmp_path)
    assert "SECRET" not in str(caught.value)


def test_a_file_that_a_manifest_names_in_vain_is_named(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path, [("a.jpg", "p1", "70", "1", "0")])
    (tmp_path / "a.jpg").unlink()

    with pytest.raises(DataMissing, match=r"a\.jpg is missing"):
        reduced_images(chest_set(manifest).images, Chain(), tmp_path)


@pytest.mark.data
def test_the_public_sets_say_what_is_no_result(data: Path) -> None:
    found = chest_set(data)

    assert ("cxr_nih_more/images", "Pneumonia") in found.left_out
    assert found.natural == ("cxr_nih_more/images_128",)
    assert sum(not image.adult for image in found.images) == 384
    assert len(truth_boxes(data)) == 730


def _manifest(folder: Path, rows: list[tuple[str, str, str, str, str]]) -> Path:
    for name, *_ in rows:
        cv2.imwrite(str(folder / name), np.full((64, 48), 90, np.uint8))
    path = folder / "manifest.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("file", "patient_id", "age", "Effusion", "Mass"))
        writer.writerows(rows)
    return path
