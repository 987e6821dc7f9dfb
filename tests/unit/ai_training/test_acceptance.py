"""`ai-pipeline models accept`: fitted on half of the patients, measured on the others, added beside the
original.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import Result

from ai_pipeline.chest.calls import OperatingPoint, labels_at
from ai_pipeline.chest.card import CLASSIFIER
from ai_pipeline.chest.classifier import Classifier, decide, probability
from ai_pipeline.cli import mount_commands
from ai_pipeline.images.exposure import Exposure
from ai_pipeline.models.registry import find
from ai_pipeline.models.store import folder
from ai_training import acceptance
from ai_training.acceptance import first_half, learned_from
from ai_training.sets.files import rows
from ai_training.sets.images import SetImage
from tests.unit.ai_pipeline.models.store_lab import add, contents, ended, models
from tests.unit.ai_pipeline.phantoms import write_dicom
from tests.unit.ai_training import published_lab as lab
from tests.unit.ai_training import small_models

PATIENTS, HEALTHY = 420, 300
SECRET = "SITEPATIENT"


@pytest.fixture(scope="module", autouse=True)
def verbs() -> None:
    mount_commands()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, films: Path) -> Path:
    """A folder with the store ``models``, in which small@1 was accepted, and what that left in ``out``."""
    where = tmp_path_factory.mktemp("store")
    assert add(*with_textures(where / "made"), "--models-dir", str(where / "models")).exit_code == 0
    (where / "said").write_text(ended(0, accept(where, films / "manifest.csv")))
    return where


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of a site: with an effusion they are brighter, by a little more than they differ among
    themselves.
    """
    where, random, listed = tmp_path_factory.mktemp("site"), np.random.default_rng(3), []
    for number in range(PATIENTS):
        name, sick = f"{SECRET}{number}", number >= HEALTHY
        level = 90 + 40 * sick + random.normal(0, 18)
        pixels = np.clip(random.normal(level, 6, (96, 96)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(where / f"{name}.png"), pixels)
        listed.append((f"{name}.png", name, 50, int(sick), int(number % 97 == 0)))
    lab.table(where / "manifest.csv", ("file", "patient_id", "age", "Effusion", "Mass"), listed)
    return where


def rewritten(films: Path, listed: list[dict[str, str]]) -> Path:
    """A manifest of these rows beside the films."""
    return lab.table(films / "changed.csv", list(listed[0]), [list(row.values()) for row in listed])


def with_textures(where: Path) -> tuple[Path, Path]:
    """The small model, which also hands out 16 maps of textures as its features."""
    network, kernels = small_models.network(slope=8.0), np.random.default_rng(5).normal(0, 1, (16, 1, 8, 8))
    network.graph.initializer.append(onnx.numpy_helper.from_array(kernels.astype(np.float32), "kernels"))
    network.graph.node.append(
        onnx.helper.make_node("Conv", ["images", "kernels"], ["textures"], strides=[8, 8])
    )
    network.graph.output.append(
        onnx.helper.make_tensor_value_info("textures", onnx.TensorProto.FLOAT, ["n", 16, 8, 8])
    )
    file, card = small_models.write(where, network)
    text = card.read_text().replace('scores = "logits"', 'scores = "logits"\nfeatures = "textures"')
    card.write_text(f'{text}\n[usual_chest]\nlabel = "Effusion"\nlimit = 0.3\n')
    return file, card


def accept(where: Path, data: Path, *more: str) -> Result:
    return models(
        "accept", "small@1", "--data", data, "--out", where / "out", "--models-dir", where / "models", *more
    )


def test_the_new_card_stands_beside_the_original_and_nothing_uses_it(site: Path) -> None:
    said, store = (site / "said").read_text(), site / "models"

    assert "ai-pipeline models activate small@1-site" in said
    assert "Findings that it will show: Effusion\n" in said
    assert {"small/1-site/card.toml", "small/1-site/small.onnx", "small/1-site/gate.npz"} <= contents(store)
    assert (store / "small/1/card.toml").read_bytes() == (site / "made" / "small.toml").read_bytes()
    assert folder.active(CLASSIFIER, store).id != "small"
    assert models("activate", "small@1-site", "--models-dir", store).exit_code == 0


def test_page_and_output_say_that_too_few_images_hide_a_finding(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (site / "out" / "acceptance.html").read_text()
    assert "Shown is what 15 images in each half have" in page
    found = find("small@1-site", site / "models")
    hidden = replace(found, labels=tuple(replace(label, supported=False) for label in found.labels))
    monkeypatch.setattr(acceptance, "accept", lambda *_, **__: (hidden, tmp_path / "acceptance.html"))
    said = accept(site, tmp_path)
    assert "will show: none: each has fewer than 15 images in a half" in said.output


def test_what_was_fitted_holds_on_the_other_patients(site: Path, films: Path) -> None:
    card = find("small@1-site", site / "models")
    classifier, effusion = Classifier(card, threads=1), card.labels[0]
    held = [row for row in rows(films / "manifest.csv") if not first_half(row["patient_id"])]
    pictures = [cv2.imread(str(films / row["file"]), 0) for row in held]
    analyses = [classifier.analyse(picture) for picture in pictures]
    taken = [
        classifier.in_domain(found) and Exposure.from_image(picture).refusal is None
        for found, picture in zip(analyses, pictures, strict=True)
    ]
    chances = np.array([probability(effusion, float(found.logits[0])) for found in analyses])
    sick = np.array([row["Effusion"] == "1" for row in held])
    figures = json.loads((site / "out" / "acceptance.json").read_text())
    assert chances.mean() == pytest.approx(sick.mean(), abs=0.06)  # calibrated: before, nearly all were 1
    assert chances[sick].mean() > chances[~sick].mean() + 0.3
    cut = card.details["operating_points"]["specific"]["labels"]["Effusion"]["threshold"][0]
    alarms = figures["operating_points"]["specific"]["without_finding_called"][0]
    assert 0.2 > alarms == pytest.approx(((chances >= cut) & taken)[~sick].mean(), abs=1e-4)
    assert figures["operating_points"]["refused"] == taken.count(False) > 0
    assert figures["operating_points"]["specific"]["called"] == ["Effusion"]
    assert figures["measured"]["patients"] == len(held) == PATIENTS - figures["fitted"]["patients"]
    assert [label.supported for label in card.labels] == [True, False]
    limits = " ".join(card.limits)
    assert f"Figures are of {len(held)} images of {len(held)} adults of one site" in limits
    assert "not calibrated" not in limits
    assert "No domain gate" not in limits


def test_the_gate_knows_the_site_s_films(site: Path, films: Path) -> None:
    classifier = Classifier(find("small@1-site", site / "models"), threads=1)
    own = [classifier.analyse(cv2.imread(str(path), 0)) for path in sorted(films.glob("*.png"))[:100]]
    stripes = np.tile(np.repeat([0, 255], 6), (96, 8)).astype(np.uint8)
    assert np.mean([classifier.in_domain(found) for found in own]) > 0.9
    assert not classifier.in_domain(classifier.analyse_as_shown(stripes))


def test_the_page_to_sign_has_figures_and_plots_and_names_no_patient(site: Path) -> None:
    page, card = (site / "out" / "acceptance.html").read_text(), find("small@1-site", site / "models")
    words = ("Acceptance test of small 1-site", "Effusion", "false calls", "signature", "Lung Lesion")
    words += ("It learned from: not known to this card",)
    assert "Warning" not in page
    assert [word for word in (*words, card.sha256) if word not in page] == []
    assert len(re.findall(r'src="data:image/png;base64,', page)) == 1
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert not any(SECRET in path.read_text() for path in (*(site / "out").iterdir(), card.path))


def test_what_is_left_out_is_counted_in_the_output_on_the_card_and_on_the_page(
    site: Path, films: Path, tmp_path: Path
) -> None:
    listed = [row | {"Fracture": "1"} for row in rows(films / "manifest.csv")]
    listed[7]["age"], listed[8]["age"] = "9", ""
    said = ended(0, accept(site, rewritten(films, listed), "--version", "3"))
    notes = [
        f"no label here, with the number of images: Fracture {PATIENTS}",
        "images left out: under 16 years 1, of unknown age 1",
    ]
    page = (site / "out" / "acceptance.html").read_text()
    assert [note for note in notes if note not in said or note not in page] == []
    assert find("small@3", site / "models").details["metrics"]["acceptance"]["notes"] == notes


def test_a_page_on_pngs_of_12_bits_is_that_on_the_same_films_in_dicom(site: Path, tmp_path: Path) -> None:
    random, pages = np.random.default_rng(5), {}
    for kind in ("png", "dcm"):
        (tmp_path / kind).mkdir()
    listed = []
    for number in range(120):
        sick = number >= 70
        film = random.normal(1200, 200, (96, 96))
        film[: round(random.normal(60 if sick else 30, 8))] += 2000  # bright from the top
        samples = np.clip(film, 0, 4095).astype(np.uint16)
        Image.fromarray(samples).save(tmp_path / "png" / f"{number}.film", "PNG")
        dicom = tmp_path / "dcm" / f"{number}.film"
        write_dicom(dicom, samples[None], BitsStored=12, HighBit=11)
        listed.append((f"{number}.film", f"patient {number}", 50, int(sick)))
    for kind in ("png", "dcm"):
        where, header = tmp_path / kind, ("file", "patient_id", "age", "Effusion")
        shutil.copytree(site / "models" / "small" / "1", where / "models" / "small" / "1")
        ended(0, accept(where, lab.table(where / "ours.csv", header, listed)))
        pages[kind] = [(where / "out" / name).read_text() for name in ("acceptance.html", "acceptance.json")]
    assert pages["png"] == pages["dcm"]
    (label, *_) = json.loads(pages["png"][1])["labels"]
    assert label["auc"][0] > 0.9, "the films are seen"


def test_images_with_names_of_the_network_s_own_set_are_counted() -> None:
    images = [SetImage(name, Path(name), "p") for name in ("00001234_000.png", "1234_000.png", "a.png")]
    shipped = learned_from(find("chest-efficientnet-lite0"), images)
    assert shipped["same"] == 1
    assert "ChestX-ray14" in shipped["data"]
    assert learned_from(find("fetal-head-unet"), images)["same"] == 0


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        (lambda rows: rows[:39], "fewer than 40 adult patients"),
        (lambda rows: [row | {"age": "9"} for row in rows], "fewer than 40 adult patients"),
        (lambda rows: [row | {"Effusion": "0"} for row in rows], "its labels are Effusion, Lung Lesion"),
    ],
)
def test_data_that_say_too_little_are_refused_and_nothing_is_added(
    site: Path, films: Path, change: Callable[[list[dict[str, str]]], list[dict[str, str]]], remedy: str
) -> None:
    changed = rewritten(films, change(rows(films / "manifest.csv")))
    assert remedy in ended(66, accept(site, changed, "--version", "2"))
    assert not (site / "models/small/2").exists()
    assert not list((site / "models").glob(".incoming*"))


def test_calibrating_alone_changes_what_is_said_and_not_what_is_called(site: Path, films: Path) -> None:
    """Half of the sick films are left out: the curves of the acceptance say too much there."""
    listed = [row for row in rows(films / "manifest.csv") if row["Effusion"] == "0" or hash_is_even(row)]
    rarer, store = rewritten(films, listed), site / "models"
    told = ended(
        0, models("calibrate", "small@1-site", "--data", rarer, "--models-dir", store, "--json")
    ).splitlines()
    said = json.loads(told[-1])
    old, new = find("small@1-site", store), find("small@1-site-calibrated", store)
    assert (said["model"], said["kept"]) == (new.name, ["Lung Lesion"])
    errors = said["labels"]["Effusion"]
    assert errors["error_after"] < errors["error_before"]
    assert [weights.sha256 for weights in new.weights] == [weights.sha256 for weights in old.weights]
    assert "all decisions, as in version 1-site" in new.details["calibration"]["method"]
    assert new.details["metrics"]["operating_points"] == old.details["metrics"]["operating_points"]

    logits = np.linspace(-8, 8, 4001)
    for point in OperatingPoint:
        before, after = labels_at(old, point)[0], labels_at(new, point)[0]
        assert after.intercept < before.intercept
        decided = [
            [decide(label, probability(label, value)) for value in logits] for label in (before, after)
        ]
        assert decided[0] == decided[1]
    assert new.labels[1] == old.labels[1]


def test_what_calibrating_leaves_out_is_counted_in_the_output_and_on_the_card(
    site: Path, films: Path
) -> None:
    listed = rows(films / "manifest.csv")
    listed[7]["age"], listed[8]["age"] = "9", ""
    words = ("--data", rewritten(films, listed), "--models-dir", site / "models", "--version", "counted")
    said = json.loads(ended(0, models("calibrate", "small@1", *words, "--json")).splitlines()[-1])
    assert said["notes"] == ["images left out: under 16 years 1, of unknown age 1"]
    assert said["images"] == PATIENTS - 2
    assert find("small@counted", site / "models").details["calibration"]["notes"] == said["notes"]


def test_no_curve_is_fitted_to_images_that_the_node_refuses(site: Path, films: Path) -> None:
    classifier = Classifier(find("small@1-site", site / "models"), threads=1)
    listed = [str(films / row["file"]) for row in rows(films / "manifest.csv")]
    refused = sum(
        not classifier.in_domain(classifier.analyse(cv2.imread(name, 0)))
        or Exposure.from_image(cv2.imread(name, 0)).refusal is not None
        for name in listed
    )
    words = ("--data", films / "manifest.csv", "--models-dir", site / "models", "--version", "analysed")
    said = json.loads(ended(0, models("calibrate", "small@1-site", *words, "--json")).splitlines()[-1])
    assert refused > 0
    assert said["images"] == len(listed) - refused
    assert said["notes"] == [f"images that the node refuses, to which no curve was fitted: {refused}"]


def test_new_curves_leave_the_films_that_are_to_be_looked_at_first(site: Path, films: Path) -> None:
    store = site / "models"
    words = ("--data", films / "manifest.csv", "--models-dir", store, "--version", "curved")
    ended(0, models("calibrate", "small@1-site", *words))
    limits, first = [], []
    for card in (find(name, store) for name in ("small@1", "small@1-site", "small@curved")):
        limits.append(card.details["usual_chest"]["limit"])
        chances = [probability(card.labels[0], value) for value in np.linspace(-8, 8, 4001)]
        first.append([chance > limits[-1] for chance in chances])
    assert first[0] == first[1] == first[2]
    assert set(first[0]) == {True, False}
    assert len(set(limits)) == len(limits)


def hash_is_even(row: dict[str, str]) -> bool:
    return int(row["patient_id"].removeprefix(SECRET)) % 2 == 0


def test_too_few_images_calibrate_nothing(site: Path, films: Path) -> None:
    changed = rewritten(films, rows(films / "manifest.csv")[:20])
    words = ("--data", changed, "--models-dir", site / "models", "--version", "few")
    assert "15 adults with and 15 without" in ended(66, models("calibrate", "small@1", *words))
    assert not (site / "models/small/few").exists()


def test_a_version_that_is_there_is_not_replaced(site: Path, films: Path) -> None:
    told = ended(78, accept(site, films / "manifest.csv", "--version", "1"))
    assert "name another one with --version" in told
