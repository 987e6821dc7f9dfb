"""``ai-pipeline evaluate chest``: its figures are of adults, by source, repeatable, and those of the card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import tomlkit

pytest.importorskip("sklearn")

import typer
from typer.testing import CliRunner

from ai_pipeline.models import registry
from ai_pipeline.models.registry import SHIPPED, find
from ai_training import metrics
from ai_training import pages as cardpage
from ai_training.base import DataMissing
from ai_training.chest import gates
from ai_training.chest.ship import card_metrics, supported
from ai_training.cli.verbs import evaluate_app
from ai_training.evaluation import evaluate
from ai_training.evaluation.evaluate import evaluate_chest, source_scores
from ai_training.evaluation.figures import write_report
from ai_training.sets.chest import chest_set
from ai_training.sets.images import LABELS, ChestImage
from ai_training.text import figures_text
from tests.unit.ai_training.nih_lab import nih_download

MODEL = "chest-efficientnet-lite0"
EFFUSION = LABELS.index("Effusion")


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 films of 200 patients in the layout of the real download; the test list has 50 patients."""
    return nih_download(tmp_path_factory.mktemp("nih"), patients=200)


@pytest.fixture(scope="module", autouse=True)
def _few_pictures() -> Iterator[None]:
    """The gate and the heat maps have tests of their own: here a handful of pictures are asked, what the
    network has to beat learns from a quarter of the images, and intervals come from a tenth of the resamples.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gates, "USUAL", 50)
        patch.setattr(gates, "MEASURED", 4)
        patch.setattr(evaluate, "MOST", 1500)
        patch.setattr(metrics, "RESAMPLES", 200)
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def result(download: Path, cache: Path) -> dict[str, Any]:
    return evaluate_chest(download, "test", cache=cache)


def test_a_full_download_is_measured_without_being_told_what_it_is(result: dict[str, Any]) -> None:
    assert result["data"]["set"] == "NIH ChestX-ray14"
    assert (result["main"]["images"], result["main"]["patients"]) == (100, 50)
    assert "Effusion" in result["main"]["labels_counted"]
    assert "Effusion" in result["calibration"]["nih"]["labels"]


def test_what_it_returns_is_json_and_text(result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    text = figures_text(result)
    assert text.endswith("Not for diagnostic use.")
    assert "None" not in text and "nan" not in text


def test_two_evaluations_say_the_same(result: dict[str, Any], download: Path) -> None:
    assert evaluate_chest(download, "test") == result  # without the cache of the first


def test_every_interval_holds_its_value(result: dict[str, Any]) -> None:
    for row in result["main"]["labels"]:
        for key in ("auc", "average_precision", "sensitivity_present", "specificity_not_absent"):
            if row["positives"] >= 15:
                value, low, high = row[key]
                assert low <= value <= high, (row["label"], key)


def test_children_are_left_out_and_counted(tmp_path: Path) -> None:
    # Patients 2, 3 and 4 are children or of unknown age: in train or val.
    download = nih_download(tmp_path, patients=40)
    splits = {image.split for image in chest_set(download).images if not image.adult}
    split = "val" if "val" in splits else "train"
    everyone = [image for image in chest_set(download).images if image.split == split]

    found = evaluate_chest(download, split)

    assert found["with_children"]["images"] == len(everyone)
    assert found["main"]["images"] == sum(image.adult for image in everyone) < len(everyone)


def test_labels_without_images_have_no_figures_and_no_support(result: dict[str, Any]) -> None:
    hernia = next(row for row in result["main"]["labels"] if row["label"] == "Hernia")

    assert hernia["positives"] == 0
    assert hernia["auc"] == [None, None, None]
    assert supported(result)["Hernia"] is False


def test_subgroups_have_enough_positives(result: dict[str, Any]) -> None:
    rows = result["subgroups"]["nih"]

    assert {row["attribute"] for row in rows} == {"sex", "view", "age"}
    assert sum(row["images"] for row in rows if row["attribute"] == "sex") == 100
    assert {row["group"] for row in rows if "Effusion" in row["labels"]} >= {"F", "M"}
    assert all(cell["positives"] >= 20 for row in rows for cell in row["labels"].values())


def test_boxes_of_the_full_size_are_asked_of_a_smaller_file(result: dict[str, Any]) -> None:
    assert result["boxes"]["boxes"] == 1  # one box in the test list, in pixels of 1,024, of a file of 128


def test_a_model_without_some_of_the_labels_is_measured_on_the_others(
    download: Path, cache: Path, tmp_path: Path
) -> None:
    card = tomlkit.parse((SHIPPED / f"{MODEL}.toml").read_text())
    card["id"] = "renamed"
    for row in card["labels"]:
        row["name"] = {"Hernia": "Something else", "Pleural_Thickening": "pleural thickening"}.get(
            row["name"], row["name"]
        )
    (tmp_path / "renamed.toml").write_text(tomlkit.dumps(card))
    for weights in find(MODEL).weights:
        shutil.copy(weights.path, tmp_path / weights.path.name)

    found = evaluate_chest(download, "test", model="renamed", models_dir=tmp_path, cache=cache)

    assert found["labels_left_out"] == ["Hernia"]
    assert "Pleural_Thickening" in found["labels"]
    assert found["model"]["id"] == "renamed"


def test_a_sites_manifest_is_measured_without_train_images(download: Path, tmp_path: Path) -> None:
    images = [image for image in chest_set(download).images if image.split == "test"]
    lines = ["file,patient_id,age,Effusion"]
    lines += [f"{i.path},{i.patient},{i.age:g},{i.labels[EFFUSION]}" for i in images]
    manifest = tmp_path / "site.csv"
    manifest.write_text("\n".join(lines) + "\n")

    found = evaluate_chest(manifest, "test")

    assert found["labels"] == ["Effusion"]
    assert found["main"]["images"] == 100
    assert found["probes"] == {}
    assert "mean_auc_hog" not in found["main"]
    assert "None" not in figures_text(found)


def test_a_split_without_images_is_refused(download: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("file,patient_id,age,Effusion,split\na.jpg,p,50,1,train\n")

    with pytest.raises(DataMissing, match="no adult of split test"):
        evaluate_chest(tmp_path / "m.csv", "test")


def test_the_source_alone_is_a_classifier_where_sources_differ() -> None:
    ill = [_image("hospital", 1) for _ in range(20)]
    well = [_image("screening", 0) for _ in range(20)]

    scores = source_scores([*ill, *well], [ill[0], well[0], _image("elsewhere", 1)])

    assert scores[0, EFFUSION] > 0.9
    assert scores[1, EFFUSION] < 0.1
    assert scores[2, EFFUSION] == pytest.approx(0.5)


def test_the_report_is_a_page_with_its_pictures(result: dict[str, Any], tmp_path: Path) -> None:
    page = write_report(tmp_path / "report", result)
    text = page.read_text()
    pictures = sorted(path.name for path in page.parent.glob("*.png"))

    assert "Not for diagnostic use." in text
    assert pictures == ["precision-recall-nih.png", "reliability-nih.png", "roc-nih.png"]
    assert all(f"({name})" in text for name in pictures)
    for name in pictures:
        picture = cv2.imread(str(page.parent / name))
        assert picture is not None and picture.std() > 5  # something is drawn


def test_the_figures_fit_into_a_card_and_onto_its_page(result: dict[str, Any], tmp_path: Path) -> None:
    text = tomlkit.parse((SHIPPED / f"{MODEL}.toml").read_text())
    text["metrics"] = card_metrics(result)
    (tmp_path / "card.toml").write_text(tomlkit.dumps(text))

    card = registry.load(tmp_path / "card.toml")
    lines = [line for one in cardpage.PAGES for line in cardpage.figure_lines(one, card)]
    page = "\n".join([*cardpage.card_lines(card), *lines])

    assert card.details["metrics"]["mean_auc"] == result["main"]["mean_auc"]
    assert page.index("Not for diagnostic use") < page.index("Intended use")
    assert "| nih | sex | F |" in page
    assert "None" not in page


def app() -> typer.Typer:
    """A group, whatever other modules have added to it meanwhile."""
    app = typer.Typer()
    app.add_typer(evaluate_app, name="evaluate")
    return app


def test_the_verb_prints_json_and_writes_the_report(download: Path, cache: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app(),
        [
            "evaluate",
            "chest",
            "--data",
            str(download),
            "--cache",
            str(cache),
            "--json",
            "--report",
            str(tmp_path / "report"),
        ],
    )

    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout.splitlines()[-1])
    assert "curves" not in told
    assert told["main"]["images"] == 100
    assert (tmp_path / "report" / "report.md").exists()


def test_the_verb_names_what_is_missing(tmp_path: Path) -> None:
    done = CliRunner().invoke(app(), ["evaluate", "chest", "--data", str(tmp_path)])

    assert done.exit_code == 66
    assert "manifest.csv" in done.output


@pytest.mark.data
def test_no_patient_is_in_two_splits_and_labels_are_in_the_cards_order(data: Path) -> None:
    splits: dict[str, set[str]] = {}
    for image in chest_set(data).images:
        splits.setdefault(image.patient, set()).add(image.split)

    assert all(len(found) == 1 for found in splits.values())
    assert tuple(label.name for label in find(MODEL).labels) == LABELS


@pytest.mark.data
def test_the_evaluation_prints_the_figures_of_the_card(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "RESAMPLES", 2000)  # those of the card: its intervals are compared too
    for place, not_compared in (
        (evaluate, "gate_figures"),
        (evaluate.calibration, "calibration"),
    ):
        monkeypatch.setattr(place, not_compared, lambda *_, **__: {})
    result = evaluate_chest(data, "test", cache=tmp_path)
    main, card = result["main"], find(MODEL).details["metrics"]

    assert main["mean_auc"] == pytest.approx(card["mean_auc"], abs=0.002)
    assert main["difference_to_hog"][1] > 0
    for row in main["labels"]:
        if row["positives"] >= 15:
            assert row["auc"] == pytest.approx(card["labels"][row["label"]]["auc"], abs=0.01)
    assert (main["images"], result["with_children"]["images"]) == (151, 160)
    assert result["boxes"]["pointing"]["difference"][0] > 0
    assert result["permuted_labels"][0] == pytest.approx(0.5, abs=0.01)
    assert result["probes"]["source"]["pooled_auc"]["Pneumonia"] > 0.9
    more = next(row for row in result["sources"] if row["source"] == "cxr_nih_more/images")
    assert "Pneumonia" in more["left_out"] and "Pneumonia" not in more["labels"]
    assert result["teacher"]["sources"]["cxr_nih/images"]["images"] == 85  # of the 91, six are children


def _image(source: str, effusion: int) -> ChestImage:
    labels = tuple(int(label == "Effusion") * effusion for label in LABELS)
    return ChestImage(Path("a.png"), labels, None, "p", "train", source, source, 50.0, "F", "PA")
