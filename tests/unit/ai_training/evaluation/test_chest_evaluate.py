"""``ai-pipeline evaluate chest``: figures are of adults, by source, repeatable, and on cards and pages."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
import tomlkit
import typer
from typer.testing import CliRunner, Result

from ai_pipeline.models import registry
from ai_pipeline.models.registry import SHIPPED, find
from ai_training import metrics
from ai_training import pages as cardpage
from ai_training.base import DataMissing
from ai_training.chest import gates
from ai_training.chest.ship import card_metrics
from ai_training.cli.verbs import evaluate_app
from ai_training.evaluation import evaluate
from ai_training.evaluation.evaluate import evaluate_chest, source_scores
from ai_training.evaluation.figures import write_report
from ai_training.sets.chest import chest_set
from ai_training.sets.images import LABELS, ChestImage
from ai_training.text import figures_text
from tests.unit.ai_training.published_lab import nih_download

MODEL = "chest-efficientnet-lite0"
EFFUSION = LABELS.index("Effusion")


@pytest.fixture(scope="module")
def download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """320 films of 160 patients in the layout of the real download; the test list has 40 patients."""
    return nih_download(tmp_path_factory.mktemp("nih"), patients=160)


@pytest.fixture(scope="module", autouse=True)
def _few_pictures() -> Iterator[None]:
    """The gate and the heat maps have tests of their own: here a handful of pictures are asked, what the
    network has to beat learns from a third of the images, and intervals come from a tenth of the resamples.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gates, "USUAL", 25)
        patch.setattr(gates, "MEASURED", 2)
        patch.setattr(evaluate, "MOST", 80)
        patch.setattr(metrics, "RESAMPLES", 200)
        yield


@pytest.fixture(scope="module")
def result(download: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return evaluate_chest(download, "test", cache=tmp_path_factory.mktemp("cache"))


def test_a_full_download_is_measured_without_being_told_what_it_is(result: dict[str, Any]) -> None:
    assert result["data"]["set"] == "NIH ChestX-ray14"
    assert (result["main"]["images"], result["main"]["patients"]) == (80, 40)
    assert "Effusion" in result["main"]["labels_counted"]
    assert "Effusion" in result["calibration"]["nih"]["labels"]
    assert result["boxes"]["boxes"] == 1  # one box in the test list, in pixels of 1,024, of a file of 128
    assert tuple(label.name for label in find(MODEL).labels) == LABELS


def test_what_it_returns_is_json_and_text(result: dict[str, Any]) -> None:
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    text = figures_text(result)
    assert text.endswith("Not for diagnostic use.") and "None" not in text and "nan" not in text


def test_every_interval_holds_its_value(result: dict[str, Any]) -> None:
    figures = ("auc", "average_precision", "sensitivity_present", "specificity_not_absent")
    rows = [row for row in result["main"]["labels"] if row["positives"] >= 15]
    intervals = [row[figure] for row in rows for figure in figures]
    assert intervals and all(low <= value <= high for value, low, high in intervals)


def test_labels_without_images_have_no_figures_and_no_support(result: dict[str, Any]) -> None:
    hernia = next(row for row in result["main"]["labels"] if row["label"] == "Hernia")
    assert (hernia["positives"], hernia["auc"]) == (0, [None, None, None])
    assert hernia["supported"] is False


def test_subgroups_have_enough_positives(result: dict[str, Any]) -> None:
    rows = result["subgroups"]["nih"]

    assert {row["attribute"] for row in rows} == {"sex", "view", "age"}
    assert sum(row["images"] for row in rows if row["attribute"] == "sex") == 80
    assert {row["group"] for row in rows if "Effusion" in row["labels"]} >= {"F", "M"}
    assert all(cell["positives"] >= 20 for row in rows for cell in row["labels"].values())


def test_a_sites_manifest_is_measured_on_adults_by_the_labels_that_the_model_has(
    download: Path, tmp_path: Path
) -> None:
    card = tomlkit.parse((SHIPPED / f"{MODEL}.toml").read_text()).unwrap()
    card["id"] = "renamed"
    other = {"Hernia": "Something else", "Pleural_Thickening": "pleural thickening"}
    card["labels"] = [row | {"name": other.get(row["name"], row["name"])} for row in card["labels"]]
    (tmp_path / "renamed.toml").write_text(tomlkit.dumps(card))
    for weights in find(MODEL).weights:
        shutil.copy(weights.path, tmp_path / weights.path.name)
    images = [image for image in chest_set(download).images if image.split == "test"]
    ages = [9, 9, *(image.age for image in images[2:])]
    lines = ["file,patient_id,age,Effusion,Hernia,Pleural_Thickening"]
    lines += [
        f"{i.path},{i.patient},{age:g},{i.labels[EFFUSION]},0,0" for i, age in zip(images, ages, strict=True)
    ]
    (tmp_path / "site.csv").write_text("\n".join(lines) + "\n")

    found = evaluate_chest(tmp_path / "site.csv", "test", model="renamed", models_dir=tmp_path)

    assert (found["main"]["images"], found["with_children"]["images"]) == (78, 80)
    assert (found["labels"], found["labels_left_out"]) == (["Effusion", "Pleural_Thickening"], ["Hernia"])
    assert (found["probes"], found["model"]["id"]) == ({}, "renamed")  # there is nothing to learn from
    assert "mean_auc_hog" not in found["main"] and "None" not in figures_text(found)


def test_a_split_without_images_is_refused(download: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("file,patient_id,age,Effusion,split\na.jpg,p,50,1,train\n")

    with pytest.raises(DataMissing, match="no adult of split test"):
        evaluate_chest(tmp_path / "m.csv", "test")


def test_the_source_alone_is_a_classifier_where_sources_differ() -> None:
    ill, well = _image("hospital", 1), _image("screening", 0)
    scores = source_scores([*[ill] * 20, *[well] * 20], [ill, well, _image("elsewhere", 1)])[:, EFFUSION]
    assert scores[0] > 0.9 and scores[1] < 0.1 and scores[2] == pytest.approx(0.5)


def test_the_report_is_a_page_with_its_pictures(result: dict[str, Any], tmp_path: Path) -> None:
    page = write_report(tmp_path / "report", result)
    drawn = {path.name: cv2.imread(str(path)).std() > 5 for path in page.parent.glob("*.png")}
    assert drawn == {"curves-nih.png": True}
    said = ("Not for diagnostic use.", *(f"({name})" for name in drawn))
    assert [text for text in said if text not in page.read_text()] == []


def test_the_figures_fit_into_a_card_and_onto_its_page(result: dict[str, Any], tmp_path: Path) -> None:
    text = tomlkit.parse((SHIPPED / f"{MODEL}.toml").read_text())
    text["metrics"] = card_metrics(result)
    (tmp_path / "card.toml").write_text(tomlkit.dumps(text))

    card = registry.load(tmp_path / "card.toml")
    lines = [line for one in cardpage.PAGES for line in cardpage.figure_lines(one, card)]
    page = "\n".join([*cardpage.card_lines(card), *lines])

    assert card.details["metrics"]["mean_auc"] == result["main"]["mean_auc"]
    assert page.index("Not for diagnostic use") < page.index("Intended use")
    assert "| nih | sex | F |" in page and "None" not in page


def test_the_verb_prints_the_same_as_json_and_writes_the_report(
    result: dict[str, Any], download: Path, tmp_path: Path
) -> None:
    done = run(
        "--data", download, "--json", "--report", tmp_path / "report"
    )  # without the cache of the first
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1]) == {k: v for k, v in result.items() if k != "curves"}
    assert (tmp_path / "report" / "report.md").exists()


def run(*words: object) -> Result:
    app = typer.Typer()  # whatever other modules have added to the program's own meanwhile
    app.add_typer(evaluate_app, name="evaluate")
    return CliRunner().invoke(app, ["evaluate", "chest", *map(str, words)])


def test_the_verb_names_what_is_missing(tmp_path: Path) -> None:
    done = run("--data", tmp_path)
    assert done.exit_code == 66 and "manifest.csv" in done.output


def _image(source: str, effusion: int) -> ChestImage:
    labels = tuple(int(label == "Effusion") * effusion for label in LABELS)
    return ChestImage(Path("a.png"), labels, None, "p", "train", source, source, 50.0, "F", "PA")


MOST_WORDS = 3000


def test_the_pages_about_the_models_are_those_of_the_shipped_cards() -> None:
    written = [cardpage.DOCS / cardpage.CARDS, *sorted((cardpage.DOCS / "models").iterdir())]
    found = {path.relative_to(cardpage.DOCS).as_posix(): path.read_text("utf-8") for path in written}
    assert found == cardpage.pages(), "run python -m ai_training.pages"
    assert {name: len(text.split()) for name, text in found.items() if len(text.split()) > MOST_WORDS} == {}


def test_each_row_of_plain_values_is_a_line() -> None:
    figures = {
        "model": "made",
        "mean_auc": [0.71234, 0.65, None],
        "nothing": [None, None, None],
        "labels": [{"label": "Mass", "auc": 0.5, "deep": {"a": 1}}, {"label": "Nodule", "auc": 1.0}],
        "gate": {"threshold": 0.9, "kinds": {"chest_x": {"passed": True}, "other": {"passed": False}}},
        "left_out": {},
    }

    assert figures_text(figures).splitlines() == [
        "model: made",
        "mean auc: 0.7123, 0.65, –",
        "nothing: –, –, –",
        "labels:",
        "  1 Mass:",
        "    label: Mass",
        "    auc: 0.5",
        "    deep: a 1",
        "  2 Nodule: label Nodule; auc 1",
        "gate:",
        "  threshold: 0.9",
        "  kinds:",
        "    chest x: passed yes",
        "    other: passed no",
        "left out: none",
        "",
        "Not for diagnostic use.",
    ]
