"""Image sets: which films, in which split, and the published ones."""

import math
import shutil
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from ai_pipeline.models.registry import Chain
from ai_training.base import DataMissing
from ai_training.cli import split
from ai_training.commands import verb
from ai_training.fetal import head_images
from ai_training.ovarian.frames import ovarian_frames
from ai_training.sets.chest import chest_set, label_matrix, reduced_images
from ai_training.sets.files import read_grey, size_of
from ai_training.sets.images import CHEST, FETAL, LABELS, OVARY, ImageSet
from ai_training.sets.layouts import BESIDE, LAYOUTS, read_set
from ai_training.sets.splits import SHARES, split_by_patient, table, years
from tests.unit.ai_training import published_lab as lab
from tests.unit.heads import HEAD


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lab.nih_download(tmp_path_factory.mktemp("nih"))


def test_the_download_is_recognised_and_read_whole(download: Path) -> None:
    found = chest_set(download)
    assert (found.name, len(found.images), found.main) == ("NIH ChestX-ray14", 80, "nih")
    image = next(image for image in found.images if image.path.name == "00000005_001.png")
    marked = [name for name, mark in zip(LABELS, image.marks, strict=True) if mark]
    assert marked == ["Cardiomegaly", "Effusion"]
    assert (image.patient, image.age, image.sex, image.view) == ("00000005", 35.0, "F", "PA")
    assert cv2.imread(str(image.path), cv2.IMREAD_UNCHANGED).shape == (128, 128, 4)
    assert read_grey(image.path).shape == (128, 128)
    assert {image.patient for image in found.images if not image.adult} == {
        "00000002",  # 414 years
        "00000003",  # 9
        "00000004",  # 6 months
    }


def test_the_official_lists_are_kept_and_val_is_an_eighth_of_the_others(download: Path) -> None:
    splits = Counter((image.split, image.patient) for image in chest_set(download).images)
    assert {patient for split, patient in splits if split == "test"} == {f"{n:08d}" for n in range(31, 41)}
    assert sum(split == "val" for split, _ in splits) == round(0.125 * 30)


def test_one_folder_of_images_gives_the_same_table(download: Path, tmp_path: Path) -> None:
    flat, archives = (
        [(image.path.name, image.marks, image.split, image.patient) for image in chest_set(folder).images]
        for folder in (lab.nih_download(tmp_path, archives=False), download)
    )
    assert flat == archives


def test_val_is_the_same_however_much_is_unpacked(download: Path, tmp_path: Path) -> None:
    part = shutil.copytree(download, tmp_path / "part", ignore=shutil.ignore_patterns("images_002"))
    whole, found = {image.path.name: image.split for image in chest_set(download).images}, chest_set(part)
    assert len(found.images) == 40
    assert all(whole[image.path.name] == image.split for image in found.images)
    assert any("40 of 80 listed images are not there" in note for note in found.notes)


def test_the_newer_table_is_taken_when_both_are_there(download: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(download, tmp_path / "both")
    table = (folder / "Data_Entry_2017.csv").read_text()
    newer = table.replace("Patient Gender", "Patient Sex").replace(",F,", ",M,")
    (folder / "Data_Entry_2017_v2020.csv").write_text(newer)
    assert {image.sex for image in chest_set(folder).images} == {"M"}


def test_boxes_are_read_by_place_and_renamed(download: Path) -> None:
    boxes = {box.label: box for box in chest_set(download).boxes}

    assert set(boxes) == {"Infiltration", "Effusion"}  # not Infiltrate, and not of an image that is not there
    assert boxes["Infiltration"].image.split == "test"
    assert boxes["Effusion"].corners[2] == pytest.approx(300.0)


@pytest.mark.parametrize(
    ("text", "age"),
    [
        *(("058Y", 58.0), ("58", 58.0), ("006M", 0.5), ("007D", 7 / 365.25), ("60.5", 60.5)),
        *((none, math.nan) for none in ("414", "", "unknown", "-3")),
    ],
)
def test_ages_are_years_whatever_their_unit(text: str, age: float) -> None:
    assert years(text) == pytest.approx(age, nan_ok=True)


def test_the_cache_of_reduced_images_knows_two_sets_of_the_same_names(download: Path, tmp_path: Path) -> None:
    other = chest_set(lab.nih_download(tmp_path / "other", patients=4, side=96)).images
    names = {image.path.name for image in other}
    same = [image for image in chest_set(download).images if image.path.name in names]
    first, second = (reduced_images(one, Chain(side=64), tmp_path / "cache") for one in (same, other))
    assert first.shape == second.shape
    assert not np.array_equal(first, second)


def test_a_manifest_of_ones_own_is_read(tmp_path: Path) -> None:
    found = chest_set(_manifest(tmp_path, [("a.jpg", "p1", "70", "1", ""), ("b.png", "p2", "15", "", "1")]))
    assert found.labels == ("Effusion", "Mass")
    assert chest_set(tmp_path).images == found.images
    assert [image.adult for image in found.images] == [True, False]
    assert label_matrix(found.images)[:, LABELS.index("Effusion")].tolist() == [1.0, 0.0]
    assert all(image.is_in("test") and image.is_in("val") for image in found.images)  # it has no splits
    assert read_grey(found.images[1].path).shape == (64, 48)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("file,patient_id,Effusion\na.jpg,p1,1\n", "age"),
        (
            "file,patient_id,age,Effusion,split\na.jpg,SECRET,50,1,train\nb.jpg,SECRET,50,1,test\n",
            "1 patients are in more than one split",
        ),
    ],
)
def test_a_manifest_that_teaches_wrongly_is_refused_and_nobody_named(
    tmp_path: Path, table: str, told: str
) -> None:
    (tmp_path / "manifest.csv").write_text(table)
    with pytest.raises(DataMissing, match=told) as caught:
        chest_set(tmp_path)
    assert "SECRET" not in str(caught.value)


def test_a_file_that_a_manifest_names_in_vain_is_named(tmp_path: Path) -> None:
    manifest = _manifest(tmp_path, [("a.jpg", "p1", "70", "1", "0")])
    (tmp_path / "a.jpg").unlink()

    with pytest.raises(DataMissing, match=r"a\.jpg is missing"):
        reduced_images(chest_set(manifest).images, Chain(), tmp_path)


def _manifest(folder: Path, rows: list[tuple[str, str, str, str, str]]) -> Path:
    for name, *_ in rows:
        cv2.imwrite(str(folder / name), np.full((64, 48), 90, np.uint8))
    return lab.table(folder / "manifest.csv", ("file", "patient_id", "age", "Effusion", "Mass"), rows)


def _clinic(seed: int, patients: int = 250) -> tuple[list[str], np.ndarray]:
    """Images of patients, a few of whom have dozens, with labels from frequent to rare."""
    random = np.random.default_rng(seed)
    owners = np.repeat(np.arange(patients), np.minimum(random.geometric(0.4, patients), 30))
    ill = random.random((len(owners), 4)) < (0.5, 0.2, 0.1, 0.05)
    return [f"p{owner}" for owner in owners], ill.astype(float)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**31 - 1), val=st.sampled_from([0.1, 0.2, 0.3]))
def test_no_patient_is_in_two_splits_and_sizes_and_labels_have_their_shares(seed: int, val: float) -> None:
    patients, truth = _clinic(seed)
    shares = {"train": 0.8 - val, "val": val, "test": 0.2}

    dealt = split_by_patient(patients, truth, shares, seed)

    of_patient = dict(zip(patients, dealt, strict=True))
    assert [of_patient[patient] for patient in patients] == dealt
    for name, share in shares.items():
        here = {patient for patient, split in of_patient.items() if split == name}
        assert len(here) / len(of_patient) == pytest.approx(share, abs=0.02)
        for label in range(truth.shape[1]):
            ill = {p for p, row in zip(patients, truth, strict=True) if row[label]}
            assert abs(len(ill & here) - share * len(ill)) <= max(2.0, 0.1 * len(ill)), (label, name)


def test_the_same_seed_deals_the_same_and_another_otherwise_and_a_share_of_nothing_stays_empty() -> None:
    first, again, other = (split_by_patient(*_clinic(1), SHARES, seed=seed) for seed in (3, 3, 4))
    assert first == again != other
    assert "test" not in split_by_patient(*_clinic(2), {"train": 0.7, "val": 0.3, "test": 0.0}, 1)


def test_shares_that_do_not_sum_to_one_are_refused() -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        split_by_patient(["a", "b"], np.ones((2, 1)), {"train": 0.7, "val": 0.2}, 1)


def test_the_verb_writes_a_manifest_that_is_read_again(download: Path, tmp_path: Path) -> None:
    done = _run("--data", download, "--out", out := tmp_path / "lists" / "splits.csv")
    assert done.exit_code == 0, done.output
    before, again = chest_set(download).images, chest_set(out).images
    assert [image.path.resolve() for image in again] == [image.path.resolve() for image in before]
    assert {image.split for image in again} == {"train", "val", "test"}
    assert np.array_equal(label_matrix(again), label_matrix(before))
    assert sum(not image.adult for image in again) == 6  # 414 years are still unknown
    counted = table(again, [image.split for image in again], LABELS)
    for name in ("Effusion", "patients"):
        told = "; ".join(f"{split} {number}" for split, number in counted[name].items())
        assert f"{name}: {told}\n" in done.stdout


def test_the_verb_does_not_replace_a_manifest_unless_told_to(download: Path, tmp_path: Path) -> None:
    out = tmp_path / "splits.csv"
    out.write_text("precious")
    refused = _run("--data", download, "--out", out)
    assert (refused.exit_code, out.read_text()) == (66, "precious")
    assert "--force" in refused.output
    assert _run("--data", download, "--out", out, "--force").exit_code == 0
    assert out.read_text() != "precious"


def _run(*arguments: object) -> Result:
    app = typer.Typer()
    verb(app, "split")(split)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


SETS = {
    "nih": (lab.nih_download, CHEST),
    "hc18": (lab.hc18, FETAL),
    "otu-2d": (lab.otu, OVARY),
    "table": (lambda folder: lab.drawn_chest_set(folder / "own").parent, CHEST),
}


EACH_SET = pytest.mark.parametrize("name", SETS)
Sets = Callable[[str], Path]


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return cache(lambda name: SETS[name][0](tmp_path_factory.mktemp(name)))


def read(folder: Path, name: str) -> ImageSet:
    return read_set(folder, SETS[name][1])


def test_every_layout_has_a_miniature_here() -> None:
    assert {layout.name for layout in LAYOUTS} == {*SETS, "public"}


@EACH_SET
def test_a_set_is_recognised_and_every_file_of_it_is_read(laid_out: Sets, name: str) -> None:
    found = read(laid_out(name), name)
    assert [layout.name for layout in LAYOUTS if layout.lies_in(laid_out(name))] == [name]
    for image in found.images:
        grey = read_grey(image.path)
        assert grey.ndim == 2
        assert grey.std() > 10
        assert image.labels <= {*found.labels, "No Finding"}
        assert all(mask.read(grey.shape).shape == grey.shape for mask in image.masks.values())


@EACH_SET
def test_no_patient_is_in_two_splits_and_none_is_empty(laid_out: Sets, name: str) -> None:
    first, again = (read(laid_out(name), name).images for _ in range(2))
    homes = {(image.patient, image.split) for image in first if image.split != BESIDE}
    assert len(homes) == len({patient for patient, _ in homes})
    assert {split for _, split in homes} == {"train", "val", "test"}
    assert [image.split for image in again] == [image.split for image in first]


@EACH_SET
def test_the_folder_around_a_set_will_do(laid_out: Sets, tmp_path: Path, name: str) -> None:
    (tmp_path / "inside").symlink_to(laid_out(name))

    assert len(read(tmp_path, name).images) == len(read(laid_out(name), name).images)


@EACH_SET
def test_a_picture_that_cannot_be_read_is_named_with_what_was_expected(
    laid_out: Sets, tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(laid_out(name), tmp_path / "set")
    path = read(folder, name).images[0].path
    path.write_bytes(b"\x00no picture")
    with pytest.raises(DataMissing, match="neither DICOM") as refused:
        for image in read(folder, name).images:
            read_grey(image.path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("kind", [CHEST, FETAL, OVARY])
def test_a_wrong_folder_is_told_what_was_looked_for(tmp_path: Path, kind: str) -> None:
    lab.picture(tmp_path / "holidays/sea.jpg", lab.film(1))
    with pytest.raises(DataMissing, match=str(tmp_path)) as refused:
        read_set(tmp_path, kind)
    for layout in LAYOUTS:
        assert (f"{layout.name}: " in str(refused.value)) == (kind in layout.kinds)
    assert ("Looked for public: cxr_nih/manifest.csv" in str(refused.value)) == (kind == CHEST)


@pytest.mark.parametrize("inverted", [True, False])
def test_a_film_in_dicom_is_shown_as_its_header_says(tmp_path: Path, inverted: bool) -> None:
    lab.dicom(tmp_path / "film.dcm", lab.film(3), inverted=inverted)
    shown = read_grey(tmp_path / "film.dcm").astype(float)
    assert np.corrcoef(shown.ravel(), lab.film(3).ravel())[0, 1] > 0.99
    assert size_of(tmp_path / "film.dcm") == shown.shape
    (tmp_path / "film.dcm").write_bytes(b"\x00no picture")
    with pytest.raises(DataMissing, match=r"film\.dcm is not an image .*: neither DICOM"):
        read_grey(tmp_path / "film.dcm")


def test_hc18_fills_its_outlines_and_joins_what_is_of_one_examination(
    laid_out: Sets,
) -> None:
    found = read(laid_out("hc18"), "hc18")
    joined = {image.name for image in found.images if image.patient in {"010", "004"}}
    assert joined == {"004_HC.png", "004_2HC.png", "010_HC.png", "010_2HC.png", "010_3HC.png"}
    first, *_ = head_images(laid_out("hc18"), "train")
    picture, head = first.read()
    assert head.sum() == pytest.approx(HEAD.mask(*picture.shape).sum(), rel=0.02)
    assert (first.pixel_mm, first.circumference) == (0.2, pytest.approx(HEAD.circumference * 0.2, abs=0.01))


def test_hc18_closes_an_ellipse_that_the_frame_cuts(laid_out: Sets, tmp_path: Path) -> None:
    folder = shutil.copytree(laid_out("hc18"), tmp_path / "set")
    outline, whole = (
        cv2.ellipse(np.zeros((345, 512), np.uint8), (480, 170), (110, 85), 0, 0, 360, 255, width)
        for width in (1, -1)
    )
    mask = read(folder, "hc18").images[0].masks["head"]
    cv2.imwrite(str(mask.path), outline)
    assert (mask.read() == (whole > 0)).mean() > 0.995


def without(*names: str) -> Callable[[Path], object]:
    """Takes these files, or folders, away from a set."""

    def broken(folder: Path) -> None:
        for path in (path for name in names for path in folder.glob(name)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return broken


HC18 = "training_set_pixel_size_and_HC.csv"


@pytest.mark.parametrize(
    ("name", "broken", "told"),
    [
        ("nih", without("train_val_list.txt"), "train_val_list.txt"),
        ("nih", without("test_list.txt"), "test_list.txt"),
        ("nih", without("images*"), "unpack the archives"),
        ("hc18", without("training_set/003_HC_Annotation.png"), "003_HC_Annotation.png is missing"),
        ("hc18", lambda f: _replaced(f / HC18, "003_HC", "three"), "like 010_HC.png"),
        ("hc18", lambda f: _replaced(f / HC18, ",0.2,", ",?,"), "no number but '?'"),
        ("hc18", lambda f: _replaced(f / HC18, "pixel size", "pix"), "no column pixel"),
        ("hc18", lambda f: (f / HC18).write_bytes(b"\xff\xfe\x00"), "table .* expected"),
        ("hc18", without("training_set"), "none of the listed images is there.*unpack"),
        ("otu-2d", lambda f: _replaced(f / "train_cls.txt", "5.JPG  4", "5.JPG  8"), "a class from 0 to 7"),
        ("otu-2d", without("images/5.JPG"), "5.JPG is missing: train_cls.txt names it"),
        ("otu-2d", without("annotations/5*.PNG"), "5.PNG or 5_binary.PNG"),
    ],
)
def test_what_is_wrong_with_a_set_is_told(
    laid_out: Sets, tmp_path: Path, name: str, broken: Callable[[Path], object], told: str
) -> None:
    folder = shutil.copytree(laid_out(name), tmp_path / "set")
    broken(folder)
    with pytest.raises(DataMissing, match=told):
        chest_set(folder) if SETS[name][1] == CHEST else read(folder, name)


def test_otu_keeps_its_official_part_for_measuring_and_near_duplicates_out_of_it(
    laid_out: Sets,
) -> None:
    by_name = {Path(image.name).stem: image for image in read(laid_out("otu-2d"), "otu-2d").images}

    assert {image.split for number, image in by_name.items() if int(number) > 56} == {"test"}
    assert [by_name[number].split for number in ("1", "2")] == [BESIDE, BESIDE]  # like 57, which is of val
    assert by_name["1"].patient == by_name["57"].patient != by_name["3"].patient
    assert by_name["8"].labels == {"High-grade_Serous_Cystadenoma"}
    assert by_name["8"].masks["lesion"].path.name == "8_binary.PNG"
    frames = ovarian_frames(laid_out("otu-2d"))
    assert [frame.label for frame in frames[:8]] == list(range(8))
    assert 0.05 < frames[0].lesion().mean() < 0.2


def test_a_table_of_ones_own_may_be_unsure_and_name_its_parts_otherwise(tmp_path: Path) -> None:
    rows = [
        ("a.png", "1", 50, "Train", 1, -1),
        ("b.png", "2", 50, "valid", 0, 1),
        ("c.png", "3", 50, "Test", "", 0),
    ]
    for name, *_ in rows:
        lab.picture(tmp_path / name, lab.film(1))
    header = ("image", "patient", "age", "split", "Effusion", "Mass")
    found = chest_set(lab.table(tmp_path / "ours.csv", header, rows))
    assert [image.split for image in found.images] == ["train", "val", "test"]
    truth = label_matrix(found.images, unknown=-1)[:, [LABELS.index("Effusion"), LABELS.index("Mass")]]
    assert truth.tolist() == [[1, -1], [0, 1], [0, 0]]


def _replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
