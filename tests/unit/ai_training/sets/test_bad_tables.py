"""What is wrong with a site's table or files, each in a sentence that names the place and no patient."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ai_training.base import DataMissing
from ai_training.sets.chest import adults_of, chest_set, label_matrix
from ai_training.sets.files import read_grey, size_of
from ai_training.sets.images import LABELS
from tests.unit.ai_pipeline.phantoms import write_dicom
from tests.unit.ai_training import published_lab as lab

FILM = np.tile(np.arange(96, dtype=np.uint8) * 2, (96, 1))
TABLE = """file,patient_id,age,split,Effusion,Mass
a.png,SECRET1,50,train,1,0
b.png,SECRET2,60,val,0,
c.png,SECRET3,70,test,-1,1
"""
Change = Callable[[Path], object]


def table(text: str) -> Change:
    return lambda folder: (folder / "ours.csv").write_text(text)


def changed(old: str, new: str) -> Change:
    assert old in TABLE
    return table(TABLE.replace(old, new))


def cut(name: str, kind: str) -> Change:
    def halve(folder: Path) -> None:
        Image.fromarray(FILM).save(folder / name, kind)
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])

    return halve


def pages(folder: Path) -> None:
    page = Image.fromarray(FILM)
    page.save(folder / "b.png", "TIFF", save_all=True, append_images=[page])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda folder: (folder / "ours.csv").unlink(), "holds no chest X-rays", id="no table"),
        pytest.param(table(""), "lists no image", id="empty"),
        pytest.param(
            lambda folder: (folder / "ours.csv").write_bytes(b"PK\3\4\xff\xfe"), "table", id="Excel"
        ),
        pytest.param(table(TABLE.replace(",", ";")), "separated by ';', commas", id="semicolons"),
        pytest.param(changed("file", "picture"), "has no column file", id="no files"),
        pytest.param(
            changed("Effusion,Mass", "Fluid,Growth"), "no column or folder of one label", id="no label"
        ),
        pytest.param(changed("age", "years"), "says no age", id="no age"),
        pytest.param(
            changed("Mass", "Pleural effusion"), "Effusion and Pleural effusion mean the same", id="twice"
        ),
        pytest.param(changed("val,0,", "val,0,0,0"), "line 3: 7 values, but 6 columns", id="long line"),
        pytest.param(changed("val,0,", "val"), "line 3: 4 values, but 6 columns", id="short line"),
        pytest.param(changed("b.png", ""), "line 3: the column file is blank", id="no file"),
        pytest.param(changed("SECRET2", ""), "line 3: the column patient_id is blank", id="no patient"),
        pytest.param(changed("train,1", "train,yes"), "line 2, column Effusion: 1 .present", id="word"),
        pytest.param(changed("train,1", "train,2"), "line 2, column Effusion", id="two"),
        pytest.param(changed("-1,1", "-1,0.5"), "line 4, column Mass", id="probability"),
        pytest.param(changed("val", "holdout"), "line 3, column split: train, val or test", id="other split"),
        pytest.param(changed("val", ""), "line 3: the column split is blank", id="no split"),
        pytest.param(
            changed("b.png", "./a.png"), "lines 2 and 3: one file under two patients", id="two patients"
        ),
        pytest.param(
            changed("b.png,SECRET2,60,val", "a.png,SECRET1,60,train"),
            "lines 2 and 3: the same file",
            id="same",
        ),
        pytest.param(
            changed("SECRET2", " SECRET1"), "1 patients are in more than one split", id="two splits"
        ),
        pytest.param(
            table("file,age,labels\na.png,50,No Finding|Mass\n"), "line 2: it has no finding, and", id="both"
        ),
        pytest.param(lambda folder: (folder / "b.png").unlink(), "b.png is not there", id="missing file"),
        pytest.param(
            lambda folder: (folder / "b.png").write_text("film"), "b.png .*neither DICOM", id="text"
        ),
        pytest.param(cut("b.png", "PNG"), "b.png .*the file is cut off", id="half a PNG"),
        pytest.param(cut("b.png", "JPEG"), "b.png .*the file is cut off", id="half a JPEG"),
        pytest.param(pages, "b.png .*several pictures", id="two pages"),
        pytest.param(
            lambda folder: write_dicom(folder / "b.png", np.stack([FILM] * 3)), "b.png .*3 frames", id="cine"
        ),
        pytest.param(
            lambda folder: (folder / "b.png").write_bytes(bytes(128) + b"DICM" + bytes(9)),
            "b.png is not an image",
            id="broken DICOM",
        ),
    ],
)
def test_what_is_wrong_is_said_with_its_place_and_nobody_is_named(
    tmp_path: Path, change: Change, said: str
) -> None:
    for name in "abc":
        Image.fromarray(FILM).save(tmp_path / f"{name}.png")
    (tmp_path / "ours.csv").write_text(TABLE)
    change(tmp_path)
    with pytest.raises(DataMissing, match=said) as refused:
        for image in chest_set(tmp_path / "ours.csv").images:
            read_grey(image.path)
    assert "SECRET" not in str(refused.value)


def test_a_film_is_read_by_what_it_holds_whatever_its_name(tmp_path: Path) -> None:
    write_dicom(tmp_path / "film.png", FILM[None])
    Image.fromarray(FILM).save(tmp_path / "film.dcm", "PNG")
    assert np.array_equal(read_grey(tmp_path / "film.png"), read_grey(tmp_path / "film.dcm"))
    assert size_of(tmp_path / "film.png") == size_of(tmp_path / "film.dcm") == FILM.shape


def test_words_of_other_sets_are_understood_and_others_counted(tmp_path: Path) -> None:
    rows = [
        (" a.png ", "p1", 50, "test", "1.0", "nan", "", 1, ""),
        ("b.png", "p2 ", 9, "test", "0", "1", "-1", 1, "yes"),
        ("c.png", "p3", "", "test", "", "0", "1", 0, "no"),
        ("d.png", "p4", 70, "train", "", "0", "1", 0, "no"),
    ]
    names = ("pleural effusion", "Cardiac Enlargement", "Pulmonary edema", "Lung Lesion", "Fracture")
    found = chest_set(lab.table(tmp_path / "ours.csv", ("image", "patient", "age", "split", *names), rows))
    assert found.labels == ("Cardiomegaly", "Effusion", "Edema")
    truth = label_matrix(found.images, unknown=9)[:, [LABELS.index(name) for name in found.labels]]
    assert truth.tolist() == [[9, 1, 0], [1, 0, 9], [0, 0, 1], [0, 0, 1]]
    assert [image.patient for image in found.images] == ["p1", "p2", "p3", "p4"]
    kept, notes = adults_of(found, "test")
    assert [image.name for image in kept] == ["a.png"]
    assert notes == (
        "no label here, with the number of images: Lung Lesion 2, Fracture 1",
        "images left out: under 16 years 1, of unknown age 1, of split train 1",
    )


def test_words_in_one_column_are_understood_and_a_report_is_not_repeated(tmp_path: Path) -> None:
    rows = [
        ("a.png", 50, "['pleural effusion', 'COPD signs']"),
        ("b.png", 50, "Nodule/Mass; Infiltrate"),
        ("c.png", 50, "No finding"),
        ("d.png", 50, "Mrs SECRET has been seen " + "again " * 20),
    ]
    found = chest_set(lab.table(tmp_path / "ours.csv", ("file", "age", "labels"), rows))
    marked = [
        {name for name, mark in zip(LABELS, image.marks, strict=True) if mark} for image in found.images
    ]
    assert marked == [{"Effusion"}, {"Infiltration"}, set(), set()]
    (note,) = found.notes
    assert note == "no label here, with the number of images: COPD signs 1, Nodule/Mass 1, longer texts 1"
