"""Every layout in miniature: recognised, read whole, official splits, quirks, and what is refused."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from ai_training.anatomy.data import anatomy_images
from ai_training.errors import DataMissing
from ai_training.fetal.data import head_images
from ai_training.sets.chest import chest_images, chest_set, label_matrix
from ai_training.sets.duplicates import near_duplicates
from ai_training.sets.files import read_grey
from ai_training.sets.images import LABELS, ImageSet, SetImage
from ai_training.sets.layout import BREAST, CHEST, FETAL, OVARY
from ai_training.sets.ovarian import ovarian_frames
from ai_training.sets.published import LAYOUTS, named, read_data, read_set
from ai_training.sets.ultrasound import BESIDE
from tests.unit.ai_training import published_lab as lab
from tests.unit.ai_training.drawn_chests import drawn_chest_set
from tests.unit.ai_training.nih_lab import nih_download
from tests.unit.heads import HEAD

SETS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "nih": (nih_download, CHEST),
    "chexpert": (lab.chexpert, CHEST),
    "mimic-cxr": (lab.mimic, CHEST),
    "vindr-cxr": (lab.vindr, CHEST),
    "vindr-kaggle": (lab.vindr_kaggle, CHEST),
    "rsna": (lab.rsna, CHEST),
    "jsrt": (lambda folder: lab.jsrt(folder, films=6), CHEST),
    "montgomery": (lab.montgomery, CHEST),
    "shenzhen": (lab.shenzhen, CHEST),
    "hc18": (lab.hc18, FETAL),
    "otu-2d": (lab.otu, OVARY),
    "busi": (lab.busi, BREAST),
    "bus-bra": (lab.bus_bra, BREAST),
    "table": (lambda folder: drawn_chest_set(folder / "own").parent, CHEST),
}


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in made:
            made[name] = SETS[name][0](tmp_path_factory.mktemp(name))
        return made[name]

    return folder


def read(folder: Path, name: str) -> ImageSet:
    return read_set(folder, SETS[name][1])


def images_of(found: ImageSet, split: str) -> list[SetImage]:
    return [image for image in found.images if image.split == split]


def test_every_layout_has_a_miniature_here() -> None:
    assert {layout.name for layout in LAYOUTS} == {*SETS, "public", "folder"}


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_recognised_and_every_file_of_it_is_read(laid_out: Callable[[str], Path], name: str) -> None:
    folder = laid_out(name)

    recognised = [layout.name for layout in LAYOUTS if layout.lies_in(folder)]
    found = read(folder, name)

    assert recognised == [name]
    for image in found.images:
        grey = read_grey(image.path)
        assert grey.ndim == 2
        assert grey.std() > 10
        assert all(mask.read(grey.shape).shape == grey.shape for mask in image.masks.values())
        assert image.labels <= {*found.labels, "No Finding"}


@pytest.mark.parametrize("name", SETS)
def test_no_patient_is_in_two_splits_and_none_is_empty(laid_out: Callable[[str], Path], name: str) -> None:
    found = read(laid_out(name), name)
    splits: dict[str, set[str]] = {}
    for image in found.images:
        splits.setdefault(image.patient, set()).add(image.split)

    assert all(len(parts - {BESIDE}) <= 1 for parts in splits.values())
    assert {image.split for image in found.images} - {BESIDE} == {"train", "val", "test"}
    again = {image.path: image.split for image in read(laid_out(name), name).images}
    assert again == {image.path: image.split for image in found.images}


@pytest.mark.parametrize("name", SETS)
def test_the_folder_around_a_set_will_do(laid_out: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    (tmp_path / "inside").symlink_to(laid_out(name))

    assert len(read(tmp_path, name).images) == len(read(laid_out(name), name).images)


@pytest.mark.parametrize("name", SETS)
def test_a_picture_that_cannot_be_read_is_named_with_what_was_expected(tmp_path: Path, name: str) -> None:
    folder = SETS[name][0](tmp_path)
    path = read(folder, name).images[0].path
    path.write_bytes(b"\x00no picture")

    with pytest.raises(DataMissing, match="expected") as refused:
        for image in read(folder, name).images:
            read_grey(image.path)
    assert str(path) in str(refused.value)


@pytest.mark.parametrize("kind", [CHEST, FETAL, OVARY, BREAST])
def test_a_wrong_folder_is_told_what_was_looked_for(tmp_path: Path, kind: str) -> None:
    lab.picture(tmp_path / "holidays/sea.jpg", lab.film(1))

    with pytest.raises(DataMissing) as refused:
        read_set(tmp_path, kind)
    text = str(refused.value)
    assert str(tmp_path) in text
    for layout in LAYOUTS:
        assert (f"{layout.name}: " in text) == (kind in layout.kinds and bool(layout.needs))


def test_a_layout_can_be_named_and_must_fit(laid_out: Callable[[str], Path], tmp_path: Path) -> None:
    with named("rsna"):
        assert read_data(laid_out("rsna"), CHEST).title.startswith("RSNA")
        with pytest.raises(DataMissing, match=r"not laid out as rsna: looked for stage_2_train_labels\.csv"):
            read_data(laid_out("nih"), CHEST)
        with pytest.raises(DataMissing, match="rsna is of chest X-rays, not of ovaries"):
            read_data(laid_out("rsna"), OVARY)
    with pytest.raises(DataMissing, match=r"no layout is named 'rnsa': public, nih"), named("rnsa"):
        pass
    with named("folder"):
        found = chest_set(lab.own_folder(tmp_path))
    assert found.labels == ("Cardiomegaly",)
    assert label_matrix(found.images)[:, LABELS.index("Cardiomegaly")].sum() == 12
    assert all(image.adult for image in found.images)


def test_chexpert_uncertain_is_neither_blank_is_absent_and_lateral_is_left_out(
    laid_out: Callable[[str], Path],
) -> None:
    found = chest_set(laid_out("chexpert"))
    first, second = (next(i for i in found.images if i.patient == f"patient0000{n}") for n in (1, 2))

    def said(image_labels: tuple[float, ...], label: str) -> float:
        return image_labels[LABELS.index(label)]

    assert len(found.images) == 16 + 4
    assert [said(image.labels, "Cardiomegaly") for image in (first, second)] == [1, 0]
    assert [said(image.labels, "Effusion") for image in (first, second)] == [0, 1]
    assert math.isnan(said(first.labels, "Pneumonia"))
    assert math.isnan(said(first.labels, "Hernia"))  # CheXpert does not know it
    assert "Hernia" not in found.labels
    assert {i.patient for i in found.images if i.split == "test"} == {f"patient645{n}" for n in range(41, 45)}
    assert {image.sex for image in found.images} == {"M", "F", ""}
    truth = label_matrix(found.images, unknown=np.nan)[:, LABELS.index("Pneumonia")]
    assert np.isnan(truth).sum() == 16


def test_a_path_of_chexpert_without_patient_is_refused(tmp_path: Path) -> None:
    folder = lab.chexpert(tmp_path)
    table = folder / "valid.csv"
    table.write_text(table.read_text().replace("patient64542", "somebody"))

    with pytest.raises(DataMissing, match=r"valid\.csv.*expected to be train/patientNUMBER"):
        chest_set(folder)


def test_a_patient_of_chexpert_in_both_parts_is_refused(tmp_path: Path) -> None:
    folder = lab.chexpert(tmp_path)
    shutil.copytree(folder / "train/patient00004", folder / "valid/patient00004")
    row = next(line for line in (folder / "train.csv").read_text().splitlines() if "patient00004" in line)
    with (folder / "valid.csv").open("a") as file:
        file.write(row.replace("/train/", "/valid/") + "\n")

    with pytest.raises(DataMissing, match="1 patients are in more than one split"):
        chest_set(folder)


def test_mimic_keeps_its_splits_and_counts_everyone_as_an_adult(laid_out: Callable[[str], Path]) -> None:
    found = chest_set(laid_out("mimic-cxr"))

    assert [(image.patient, image.split) for image in found.images] == [
        ("10000001", "val"),
        ("10000002", "test"),
        ("10000003", "train"),
        ("10000004", "val"),
        ("10000005", "test"),
    ]
    assert all(image.adult and image.view == "PA" for image in found.images)
    assert "1 films without labels are left out" in found.notes


def test_vindr_counts_votes_and_keeps_one_of_boxes_in_one_place(laid_out: Callable[[str], Path]) -> None:
    found = read(laid_out("vindr-cxr"), "vindr-cxr")
    by_name = {image.name: image for image in found.images}

    oblong, other = by_name["train0000"], by_name["train0002"]
    assert (oblong.labels, oblong.unsure) == ({"Effusion"}, {"Cardiomegaly"})
    [box] = other.boxes  # three readers drew it
    assert (box.label, box.corners, box.side) == ("Effusion", (22.0, 32.0, 52.0, 62.0), 96.0)
    [box] = oblong.boxes  # 64 columns lie in the middle of a square of 96
    assert box.corners == (38.0, 32.0, 68.0, 62.0)
    assert (oblong.age, by_name["train0004"].age) == (61.0, 61.0)
    assert math.isnan(other.age)
    assert all(image.adult for image in chest_set(laid_out("vindr-cxr")).images)
    assert {image.name for image in images_of(found, "test")} == {f"test000{n}" for n in range(4)}


def test_vindr_in_monochrome1_is_shown_as_in_monochrome2(laid_out: Callable[[str], Path]) -> None:
    found = {image.name: image for image in read(laid_out("vindr-cxr"), "vindr-cxr").images}

    for name, number in (("train0003", 3), ("train0004", 4)):  # the first is inverted
        shown = read_grey(found[name].path).astype(float)
        assert np.corrcoef(shown.ravel(), lab.film(number).ravel())[0, 1] > 0.99


def test_vindr_of_kaggle_has_a_minority_of_readers_too(laid_out: Callable[[str], Path]) -> None:
    found = read(laid_out("vindr-kaggle"), "vindr-kaggle")
    one, two = (next(i for i in found.images if i.name == f"{number:032x}") for number in (1, 2))

    assert (one.labels, one.unsure, one.boxes) == (frozenset(), {"Pleural_Thickening"}, ())
    assert (two.labels, len(two.boxes)) == ({"Pleural_Thickening"}, 1)


def test_rsna_has_several_rows_an_image_and_several_images_a_person(
    laid_out: Callable[[str], Path], tmp_path: Path
) -> None:
    found = chest_set(laid_out("rsna"))

    assert (len(found.images), len({image.patient for image in found.images})) == (20, 10)
    assert found.labels == ("Pneumonia",)
    assert len(found.boxes) == 2 * 10
    assert [image.age for image in found.images if not image.adult] == [9.0]
    alone = chest_set(lab.rsna(tmp_path, images=6, mapping=False))
    assert len({image.patient for image in alone.images}) == 6
    assert "each image counts as a patient" in alone.notes[0]


def test_hc18_fills_its_outlines_and_joins_what_is_of_one_examination(
    laid_out: Callable[[str], Path],
) -> None:
    found = read(laid_out("hc18"), "hc18")
    joined = {image.name: image.patient for image in found.images if image.patient in {"010", "004"}}
    heads = head_images(laid_out("hc18"), "train")

    assert set(joined) == {"004_HC.png", "004_2HC.png", "010_HC.png", "010_2HC.png", "010_3HC.png"}
    assert len(found.images) == 15
    picture, head = heads[0].read()
    assert head.sum() == pytest.approx(HEAD.mask(*picture.shape).sum(), rel=0.02)
    assert (heads[0].pixel_mm, heads[0].circumference) == (
        0.2,
        pytest.approx(HEAD.circumference * 0.2, abs=0.01),
    )


def test_hc18_closes_an_ellipse_that_the_frame_cuts(tmp_path: Path) -> None:
    folder = lab.hc18(tmp_path)
    line = np.zeros((345, 512), np.uint8)
    cv2.ellipse(line, (480, 170), (110, 85), 0, 0, 360, 255, 1)
    image = read(folder, "hc18").images[0]
    cv2.imwrite(str(image.masks["head"].paths[0]), line)

    mask = image.masks["head"].read()

    whole = cv2.ellipse(np.zeros_like(line), (480, 170), (110, 85), 0, 0, 360, 255, -1) > 0
    assert (mask == whole).mean() > 0.995


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (lambda f: (f / "training_set/003_HC_Annotation.png").unlink(), "003_HC_Annotation.png is missing"),
        (lambda f: _replaced(f / "training_set_pixel_size_and_HC.csv", "003_HC", "three"), "like 010_HC.png"),
        (lambda f: _replaced(f / "training_set_pixel_size_and_HC.csv", ",0.2,", ",?,"), "no number but '?'"),
        (
            lambda f: _replaced(f / "training_set_pixel_size_and_HC.csv", "pixel size", "pix"),
            "no column pixel",
        ),
        (
            lambda f: (f / "training_set_pixel_size_and_HC.csv").write_bytes(b"\xff\xfe\x00"),
            "table .* expected",
        ),
        (lambda f: shutil.rmtree(f / "training_set"), "none of the listed images is there.*unpack"),
    ],
)
def test_what_is_wrong_with_a_table_is_told(
    tmp_path: Path, broken: Callable[[Path], object], told: str
) -> None:
    folder = lab.hc18(tmp_path)
    broken(folder)

    with pytest.raises(DataMissing, match=told):
        read(folder, "hc18")


def test_otu_keeps_its_official_part_for_measuring_and_near_duplicates_out_of_it(
    laid_out: Callable[[str], Path],
) -> None:
    found = read(laid_out("otu-2d"), "otu-2d")
    by_name = {Path(image.name).stem: image for image in found.images}

    assert {image.split for number, image in by_name.items() if int(number) > 56} == {"test"}
    assert [by_name[number].split for number in ("1", "2")] == [BESIDE, BESIDE]  # like 57, which is of val
    assert by_name["1"].patient == by_name["57"].patient != by_name["3"].patient
    assert by_name["8"].labels == {"High-grade_Serous_Cystadenoma"}
    assert by_name["8"].masks["lesion"].paths[0].name == "8_binary.PNG"
    frames = ovarian_frames(laid_out("otu-2d"))
    assert [frame.label for frame in frames[:8]] == list(range(8))
    assert 0.05 < frames[0].lesion().mean() < 0.2


@pytest.mark.parametrize(
    ("broken", "told"),
    [
        (lambda f: _replaced(f / "train_cls.txt", "5.JPG  4", "5.JPG  8"), "a class from 0 to 7"),
        (lambda f: (f / "images/5.JPG").unlink(), "5.JPG is missing: train_cls.txt names it"),
        (lambda f: [path.unlink() for path in (f / "annotations").glob("5*.PNG")], "5.PNG or 5_binary.PNG"),
    ],
)
def test_what_otu_lacks_is_told(tmp_path: Path, broken: Callable[[Path], object], told: str) -> None:
    folder = lab.otu(tmp_path, of_each=2)
    broken(folder)

    with pytest.raises(DataMissing, match=told):
        read(folder, "otu-2d")


def test_busi_unites_masks_and_joins_pictures_that_look_alike(tmp_path: Path) -> None:
    folder = lab.busi(tmp_path)
    shutil.copy(folder / "benign/benign (1).png", folder / "malignant/malignant (2).png")
    found = {image.name: image for image in read(folder, "busi").images}

    assert len(found) == 18
    assert found["benign/benign (1).png"].patient == found["malignant/malignant (2).png"].patient
    assert found["benign/benign (4).png"].masks["lesion"].read()[0, 0]
    assert not found["normal/normal (1).png"].masks["lesion"].read().any()
    assert found["malignant/malignant (2).png"].labels == {"malignant"}


def test_bus_bra_has_two_views_a_patient(laid_out: Callable[[str], Path]) -> None:
    found = read(laid_out("bus-bra"), "bus-bra")

    assert (len(found.images), len({image.patient for image in found.images})) == (20, 10)
    assert found.images[0].measures == {"birads": 3}


def test_jsrt_is_learned_from_with_the_masks_of_scr(laid_out: Callable[[str], Path]) -> None:
    found = read(laid_out("jsrt"), "jsrt")
    picture, organs = anatomy_images(laid_out("jsrt"), "test")[0].read()

    assert {image.patient for image in images_of(found, "test")} == {"JPCNN002", "JPCNN004", "JPCNN006"}
    assert organs.shape == (3, *picture.shape) == (3, 2048, 2048)
    assert picture[organs[0]].mean() > picture[organs[1]].mean() + 100  # the heart is bright


def test_lungs_without_heart_cannot_teach_all_organs(laid_out: Callable[[str], Path]) -> None:
    found = read(laid_out("montgomery"), "montgomery").images

    assert (found[0].age, found[0].sex, found[0].labels) == (21.0, "F", {"Tuberculosis"})
    mask = found[0].masks["lungs"].read()
    assert mask[:, :48].any()
    assert mask[:, 48:].any()
    with pytest.raises(DataMissing, match="no mask of heart, right lung, left lung"):
        anatomy_images(laid_out("montgomery"), "train")


def test_shenzhen_has_films_without_masks_and_ages_as_words(laid_out: Callable[[str], Path]) -> None:
    found = read(laid_out("shenzhen"), "shenzhen")

    assert found.notes == ("1 of 8 films have no mask",)
    assert [(image.age, image.sex) for image in found.images[1:3]] == [(0.5, "F"), (43.0, "M")]


def test_a_table_of_ones_own_may_be_unsure_and_name_its_parts_otherwise(tmp_path: Path) -> None:
    for name in "abc":
        lab.picture(tmp_path / f"{name}.png", lab.film(1))
    rows = [
        ("a.png", "1", 50, "Train", 1, -1),
        ("b.png", "2", 50, "valid", 0, 1),
        ("c.png", "3", 50, "Test", "", 0),
    ]
    lab.table(tmp_path / "ours.csv", ("image", "patient", "age", "split", "Effusion", "Mass"), rows)

    found = chest_set(tmp_path / "ours.csv")

    assert [image.split for image in found.images] == ["train", "val", "test"]
    truth = label_matrix(found.images, unknown=-1)[:, [LABELS.index("Effusion"), LABELS.index("Mass")]]
    assert truth.tolist() == [[1, -1], [0, 1], [0, 0]]
    with pytest.raises(DataMissing, match="all 14 labels are needed"):
        chest_images(tmp_path / "ours.csv")


def test_pictures_are_alike_through_others(tmp_path: Path) -> None:
    paths = [lab.picture(tmp_path / f"{n}.png", lab.frame(n)[0]) for n in range(4)]
    darker = lab.picture(tmp_path / "5.png", (lab.frame(2)[0] * 0.9).astype(np.uint8))

    groups = near_duplicates((*paths, darker))

    assert groups[4] == groups[2]
    assert len(set(groups)) == 4


def _replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
