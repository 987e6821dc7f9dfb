"""The fetal head biometry set as its archives unpack: groups, patients, colours, and what is wrong."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from ai_training.errors import DataMissing
from ai_training.sets.fetal_biometry import biometry_images
from tests.unit.ai_training.biometry_lab import biometry_set

SPLITS = ("train", "val", "test")


def test_every_frame_is_in_one_split_and_a_patient_in_one_too(tmp_path: Path) -> None:
    data = biometry_set(tmp_path)
    found = {split: biometry_images(data, split) for split in SPLITS}

    assert sum(map(len, found.values())) == 4 * 10 * 2
    assert Counter(image.plane for images in found.values() for image in images) == {
        "Trans-thalamic": 20,
        "Trans-ventricular": 20,
        "Trans-cerebellum": 20,
        "diverse": 20,
    }
    patients = [{image.patient for image in found[split]} for split in SPLITS]
    assert patients[0] | patients[1] | patients[2] == {
        *(f"Patient{number:05d}" for number in range(10)),
        *(f"HC18 {number:03d}" for number in range(10)),
    }
    assert [len(names) for names in patients] == [14, 3, 3]
    assert biometry_images(data, "test") == found["test"]


def test_one_class_has_another_colour_in_another_group(tmp_path: Path) -> None:
    images = biometry_images(biometry_set(tmp_path), "train")
    assert images
    for image in images:
        picture, classes = image.read()
        assert picture.shape == classes.shape == (66, 96)
        assert np.bincount(classes.ravel()).tolist() == [66 * 96 - 2400, 2400 - 120 - 50, 50, 120]


def test_a_colour_that_is_no_class_is_refused(tmp_path: Path) -> None:
    image = biometry_images(biometry_set(tmp_path), "train")[0]
    mask = cv2.imread(str(image.mask))
    mask[0, 0] = (23, 65, 54)
    cv2.imwrite(str(image.mask), mask)
    with pytest.raises(DataMissing, match=r"\(54, 65, 23\), which is no class"):
        image.read()


def test_a_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    image = biometry_images(biometry_set(tmp_path), "train")[0]
    cv2.imwrite(str(image.mask), np.zeros((60, 96, 3), np.uint8))
    with pytest.raises(DataMissing, match="not two pictures of one size"):
        image.read()


@pytest.mark.parametrize(
    ("labels", "told"), [(None, "is missing: it says"), ("Cerebellum:1,2,3::\n", "names 'Cerebellum'")]
)
def test_labels_that_are_missing_or_unknown_are_told(tmp_path: Path, labels: str | None, told: str) -> None:
    image = biometry_images(biometry_set(tmp_path), "train")[0]
    file = image.mask.parent.parent / "labelmap.txt"
    file.unlink() if labels is None else file.write_text(labels)
    with pytest.raises(DataMissing, match=told):
        image.read()


def test_a_folder_without_masks_says_what_to_unpack(tmp_path: Path) -> None:
    with pytest.raises(DataMissing, match=r"zenodo.8265464 were unpacked"):
        biometry_images(tmp_path, "train")
