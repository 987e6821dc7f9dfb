"""What is wrong with a site's table or files, each in a sentence that names the place and no patient."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ai_training.base import DataMissing
from ai_training.sets import files
from ai_training.sets.chest import adults_of, chest_set, label_matrix
from ai_training.sets.files import LARGEST_TABLE, read_grey, size_of
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


def replaced(make: Change) -> Change:
    """The picture ``b.png`` replaced by what ``make`` puts in its place."""

    def replace(folder: Path) -> None:
        (folder / "b.png").unlink()
        make(folder / "b.png")

    return replace


def sparse(start: bytes, size: int) -> Change:
    """A file of ``size`` bytes that takes no room on the disk."""

    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.write(start)
            file.truncate(size)

    return make


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
        pytest.param(
            lambda folder: (folder / "ours.csv").write_bytes(TABLE.encode("utf-16")),
            "CSV, UTF-8",
            id="UTF-16",
        ),
        pytest.param(
            lambda folder: (folder / "ours.csv").write_bytes(TABLE.replace("Mass", "Maß").encode("latin1")),
            "CSV, UTF-8",
            id="Latin-1",
        ),
        pytest.param(
            table("sep=;\n" + TABLE.replace(",", ";")),
            "has no column file: its values are separated by ';'",
            id="sep",
        ),
        pytest.param(changed("Effusion,Mass", "age,Mass"), "age and age mean the same", id="two ages"),
        pytest.param(
            changed("age,split", "age,File"), "file and file mean the same", id="two columns of files"
        ),
        pytest.param(changed("SECRET2", "nan"), "line 3: the column patient_id is blank", id="nan"),
        pytest.param(
            changed("SECRET2", "1.23457E+11"), "line 3, column patient_id: a spreadsheet has", id="rounded"
        ),
        pytest.param(
            changed("SECRET2", "secret1"), "lines 2 and 3, column patient_id: .*capitals", id="capitals"
        ),
        pytest.param(
            table("file,patient_id,age,Mass\na.png,0017,50,1\nb.png,17.0,50,0\n"),
            "lines 2 and 3, column patient_id: .*leading zeros or a decimal point",
            id="one person written twice",
        ),
        pytest.param(changed("b.png", '"b\n.png"'), "line 4, column file: a control", id="line break"),
        pytest.param(changed("b.png", "b\0.png"), "line 3, column file: a control", id="NUL"),
        pytest.param(changed("b.png", "../../etc"), "etc is not there", id="above the folder"),
        pytest.param(changed("b.png", "/dev/zero"), "/dev/zero is a pipe, a socket or a device", id="device"),
        pytest.param(replaced(os.mkfifo), "b.png is a pipe", id="pipe"),
        pytest.param(replaced(Path.mkdir), "b.png is a folder", id="folder"),
        pytest.param(
            replaced(lambda path: path.symlink_to(path)), "b.png is a link that leads to no file", id="loop"
        ),
        pytest.param(
            replaced(sparse(b"\x89PNG", 5 << 30)), "b.png .*has 5120 MiB: a picture may have 512", id="5 GB"
        ),
        pytest.param(
            lambda folder: sparse(TABLE.encode(), LARGEST_TABLE + 1)(folder / "ours.csv"),
            "is larger than 256 MiB",
            id="table of 256 MiB",
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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(lambda packed: packed[:-9], "cannot be read", id="cut off"),
        pytest.param(lambda packed: packed[:20] + b"?" + packed[21:], "cannot be read", id="changed"),
        pytest.param(lambda packed: b"file,patient_id", "cannot be read", id="not packed"),
        pytest.param(lambda packed: gzip.compress(bytes((1 << 20) + 1)), "is larger than 1 MiB", id="bomb"),
    ],
)
def test_a_packed_table_that_is_none_is_refused(
    tmp_path: Path, change: Callable[[bytes], bytes], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LARGEST_TABLE", 1 << 20)
    (tmp_path / "ours.csv.gz").write_bytes(change(gzip.compress(TABLE.encode())))
    with pytest.raises(DataMissing, match=said):
        chest_set(tmp_path / "ours.csv.gz")


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("\ufeff" + TABLE, id="byte order mark"),
        pytest.param(TABLE.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(TABLE.replace("\n", "\r"), id="CR"),
        pytest.param(TABLE.replace("file,patient_id,age", "Path,PatientID,AGE"), id="columns in capitals"),
        pytest.param(TABLE.replace("patient_id,age,split", "Patient ID,Age,Split"), id="spaces"),
        pytest.param(TABLE.replace("Effusion", "EFFUSION"), id="label in capitals"),
        pytest.param(TABLE.replace("train,1,0", "TRAIN,1.0,0.0"), id="numbers with a point"),
        pytest.param(TABLE.replace("a.png", '"a.png"') + "\n ,,,,,\n", id="quotes and a blank end"),
    ],
)
def test_a_table_is_the_same_however_a_program_writes_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "plain.csv").write_text(TABLE)
    (tmp_path / "ours.csv").write_bytes(text.encode())
    plain, found = (chest_set(tmp_path / name) for name in ("plain.csv", "ours.csv"))
    wanted = [(image.path, image.patient, image.split, image.age, image.labels) for image in plain.images]
    assert wanted == [
        (image.path, image.patient, image.split, image.age, image.labels) for image in found.images
    ]
    assert found.notes == ()


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
    assert found.notes == (
        "no column patient_id: each image counts as a patient of its own",
        "no label here, with the number of images: COPD signs 1, Nodule/Mass 1, longer texts 1",
    )
