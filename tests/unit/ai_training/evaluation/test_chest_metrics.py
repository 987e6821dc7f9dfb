"""Figures are scikit-learn's, by patient, inside sources; operating points keep what they promise."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomlkit
import typer
from scipy.special import expit
from sklearn.metrics import average_precision_score, roc_auc_score
from typer.testing import CliRunner, Result

from ai_pipeline.errors import CardError
from ai_pipeline.models import registry
from ai_pipeline.models.reference import BINS
from ai_pipeline.models.registry import Card
from ai_training import metrics, pages
from ai_training.base import DataMissing
from ai_training.chest import gate
from ai_training.chest.card import card_metrics
from ai_training.cli import evaluate_app
from ai_training.evaluation import baselines, classifier
from ai_training.evaluation.operating_points import (
    FALSE_ALARMS,
    choose_points,
    likelihood_ratio,
    measured_points,
    sensitive_cuts,
    specific_cuts,
    with_kept,
)
from ai_training.evaluation.scores import Outputs, Scored, scored
from ai_training.metrics import calibrated, calibration, deciles, platt, slope_and_intercept
from ai_training.sets.chest import chest_set
from ai_training.sets.images import LABELS, SetImage
from ai_training.text import figures_text
from tests.unit.ai_pipeline.chest.chest_lab import with_details
from tests.unit.ai_training.published_lab import nih_download


def _case(images: int = 80, seed: int = 0) -> tuple[metrics.Floats, metrics.Floats]:
    random = np.random.default_rng(seed)
    truth = (random.random(images) < 0.3).astype(float)
    return truth, np.round(random.normal(size=images) + truth, 1)  # rounded: with ties


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (metrics.resampled_auc, roc_auc_score),
        (metrics.resampled_average_precision, average_precision_score),
    ],
)
def test_weighted_figures_are_scikit_learns(
    ours: Callable[..., object], theirs: Callable[..., object]
) -> None:
    truth, score = _case()
    weights = np.random.default_rng(1).integers(0, 4, (5, 80)).astype(float)
    expected = [theirs(truth, score, sample_weight=row) for row in weights]
    assert ours(truth, score, weights) == pytest.approx(expected)


def test_the_bootstrap_draws_patients_not_images() -> None:
    weights = metrics.patient_weights(["a", "b", "a", "c"], resamples=50)

    assert (weights[:, 0] == weights[:, 2]).all()
    assert weights[:, [0, 1, 3]].sum(1) == pytest.approx(np.full(50, 3.0))


def test_a_score_differs_from_itself_by_nothing_and_from_noise_by_much() -> None:
    truth, score = (column[:, None] for column in _case(400))
    noise, one = np.random.default_rng(5).normal(size=(400, 1)), np.full(400, "one source")
    patients = [str(i // 2) for i in range(400)]
    same, better = (
        metrics.within_source_difference(truth, score, other, one, patients) for other in (score, noise)
    )
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    assert better.low > 0


def test_a_score_that_only_knows_the_source_is_worth_nothing_within_it() -> None:
    random, ill = np.random.default_rng(7), np.repeat([True, False], 300)
    truth = (random.random(600) < np.where(ill, 0.8, 0.1)).astype(float)
    score, patients = ill + random.normal(scale=1e-3, size=600), [str(i) for i in range(600)]
    within = metrics.within_source_interval(truth[:, None], score[:, None], ill.astype(str), patients)
    assert metrics.auc(truth, score) > 0.8
    assert within.low < 0.5 < within.high


def test_cells_that_are_no_result_are_left_out() -> None:
    truth, sources = np.tile([[1.0, 0.0], [0.0, 1.0]], (20, 1)), np.repeat(["a", "b"], 20)

    found = metrics.cells(truth, sources, fewest=10, left_out={("b", 1)})

    assert [(cell.source, cell.label) for cell in found] == [("a", 0), ("a", 1), ("b", 0)]


def test_three_of_three_is_not_certainty() -> None:
    everything = np.ones(3, bool)
    found = metrics.share(everything, everything, metrics.patient_weights(["a", "b", "c"]))
    assert (found.value, found.low) == (1.0, pytest.approx(0.025 ** (1 / 3)))


def test_slope_and_intercept_are_those_of_the_curve_that_made_the_labels() -> None:
    random = np.random.default_rng(2)
    logit = random.normal(size=30000)
    truth = (random.random(30000) < expit(0.5 * logit + 0.7)).astype(float)

    slope, intercept = slope_and_intercept(truth, expit(logit), np.ones((1, 30000)))

    assert slope[0] == pytest.approx(0.5, abs=0.03)
    assert intercept[0] > 0.5  # the probabilities are too low


def test_well_calibrated_probabilities_have_figures_around_the_perfect_ones() -> None:
    random = np.random.default_rng(4)
    chance = expit(random.normal(-1, 1, size=(3000, 1)))
    truth = (random.random((3000, 1)) < chance).astype(float)
    weights = metrics.patient_weights([str(i) for i in range(3000)], resamples=300)
    found = calibration(truth, chance, ["Effusion"], weights, fewest=15)
    slope, intercept, error = (found["labels"]["Effusion"][name] for name in ("slope", "intercept", "ece"))
    assert slope[1] < 1 < slope[2]
    assert intercept[1] < 0 < intercept[2]
    assert error[1] <= error[0] <= error[2] < 0.06
    assert found["prevalence"]["Effusion"] == pytest.approx(truth.mean(), abs=1e-4)


def test_a_label_with_few_positives_has_no_calibration() -> None:
    truth = np.zeros((100, 1))
    truth[:5] = 1

    found = calibration(truth, np.full((100, 1), 0.1), ["Hernia"], np.ones((3, 100)), fewest=15)

    assert found["labels"] == {}
    assert found["prevalence"] == {"Hernia": 0.05}


def test_platt_scaling_recovers_the_curve_that_made_the_labels() -> None:
    random = np.random.default_rng(2)
    logit = random.normal(size=20000)
    truth = (random.random(20000) < expit(1.5 * logit - 1)).astype(float)
    assert platt(truth, logit) == pytest.approx((1.5, -1.0), abs=0.1)


def test_a_useless_score_says_the_rate_to_everyone() -> None:
    truth = np.array([1.0, 0, 0, 0] * 50)
    point = calibrated(truth, -truth)

    assert expit(point.intercept) == pytest.approx(0.25)
    assert 0 <= point.absent_below <= point.threshold <= 1


def test_present_is_called_with_the_promised_specificity() -> None:
    random = np.random.default_rng(4)
    truth = (random.random(2000) < 0.2).astype(float)
    point = calibrated(truth, logit := random.normal(size=2000) + truth)
    assert (expit(point.slope * logit[truth <= 0] + point.intercept) < point.threshold).mean() >= 0.90


def test_deciles_cut_into_tenths() -> None:
    chance = np.random.default_rng(0).random((1000, 2))
    cut = zip(chance.T, deciles(chance), strict=True)
    counts = np.array([np.histogram(column, [0, *edges, 1])[0] for column, edges in cut])
    assert counts == pytest.approx(np.full((2, BINS), 100), abs=1)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_deciles_of_one_value_still_rise(value: float) -> None:
    edges = deciles(np.full((50, 1), value))[0]
    assert len(edges) == 9
    assert all(low < high for low, high in pairwise(edges))
    assert 0 <= edges[0] == pytest.approx(value, abs=1e-5)
    assert edges[-1] <= 1


ADULT = {"age": 50.0, "sex": "F", "view": "PA"}
SHOWN = ("Cardiomegaly", "Effusion", "Pneumothorax")
IMAGES = 600


@pytest.fixture(scope="module")
def card() -> Card:
    return replace(registry.find("chest-efficientnet-lite0"), details={"metrics": {}})


def images(card: Card, seed: int, guessed: str = "", refused: float = 0.0) -> Scored:
    """Two images a patient, half of them without any finding, and a classifier that is better than chance,
    but for the label ``guessed``. ``refused``: the share of images that the node does not analyse.
    """
    count = IMAGES
    random = np.random.default_rng(seed)
    truth = ((random.random((count, 1)) < 0.5) & (random.random((count, 14)) < 0.25)).astype(np.float32)
    made = [
        SetImage(
            "", Path(f"{n}.png"), str(n // 2), "val", marks=tuple(row), source="a", repository="b", **ADULT
        )
        for n, row in enumerate(truth)
    ]
    told = [name != guessed for name in LABELS]
    logits = random.normal(size=(count, 14)) * 4 + 5 * truth * told
    outputs = Outputs(logits, np.full(count, np.nan), random.random(count) >= refused)
    return scored(made, outputs, card.labels, LABELS)


def test_at_specific_one_in_ten_healthy_images_gets_a_finding_at_most(card: Card) -> None:
    value, low, high = choose_points(images(card, 1), SHOWN)["specific"]["without_finding_called"]
    assert low <= value <= FALSE_ALARMS
    assert low < value < high
    assert value > FALSE_ALARMS - 0.03, "no more is given away than has to be"


def test_at_sensitive_nine_in_ten_are_found_unless_half_of_the_others_were_called(
    card: Card,
) -> None:
    table = choose_points(images(card, 2), SHOWN)["sensitive"]["labels"]
    for row in (table[name] for name in SHOWN):
        assert row["sensitivity"][0] >= 0.9 or (row["specificity"][0] == pytest.approx(0.5, abs=0.01))
        assert row["absent_below"] == row["threshold"][0], "nothing is undetermined"


def test_thresholds_have_intervals_and_lie_in_order(card: Card) -> None:
    found = images(card, 3)
    points = choose_points(found, SHOWN)
    for label in found.labels:
        rows = [points[point]["labels"][label.name] for point in ("specific", "sensitive")]
        assert rows[0]["threshold"][0] >= label.threshold == rows[0]["absent_below"]
        assert all(low <= value <= high for value, low, high in (row["threshold"] for row in rows))


def test_of_too_few_images_without_a_finding_nothing_is_made(card: Card) -> None:
    found = images(card, 4)
    few = found.where(number < 120 for number in range(IMAGES))
    assert choose_points(few, SHOWN) == choose_points(found, ()) == {}


def test_a_label_of_which_most_calls_are_wrong_leaves_its_false_alarms_to_the_others(card: Card) -> None:
    found = images(card, 7, guessed="Pneumothorax")
    specific = choose_points(found, SHOWN)["specific"]
    assert specific["called"] == ["Cardiomegaly", "Effusion"]
    assert FALSE_ALARMS - 0.03 < specific["without_finding_called"][0] <= FALSE_ALARMS
    healthy, all_three = ~(found.truth > 0).any(1), list(map(found.names.index, SHOWN))
    once = np.ones(IMAGES)
    floors = np.array([label.threshold for label in found.labels])
    cuts = specific_cuts(found.chance, found.truth, once, healthy, floors, all_three)
    effusion = found.names.index("Effusion")
    assert specific["labels"]["Effusion"]["threshold"][0] < cuts[effusion]


def test_a_label_that_is_kept_has_the_card_s_threshold_and_its_false_alarms_are_counted(card: Card) -> None:
    found = images(card, 3)
    chosen = choose_points(found, SHOWN)
    high = {**chosen["specific"]["labels"]["Effusion"], "threshold": [0.99, 0.98, 1.0]}
    before = {"specific": {"note": "so it is", "labels": {"Effusion": high}}}
    kept = with_kept(chosen, with_details(card, operating_points=before), found, ["Effusion"])
    specific = kept["specific"]
    assert specific["labels"] == {**chosen["specific"]["labels"], "Effusion": high}
    assert specific["without_finding_called"][0] < chosen["specific"]["without_finding_called"][0]
    assert specific["note"] == "so it is"
    assert kept["sensitive"] == chosen["sensitive"]
    with pytest.raises(CardError, match=r"no threshold at specific for Mass$"):
        with_kept(chosen, with_details(card, operating_points=before), found, ["Effusion", "Mass"])


def test_other_images_are_judged_by_the_card_s_thresholds_and_by_source(card: Card) -> None:
    rates = dict.fromkeys(LABELS, 0.125)
    chosen = choose_points(images(card, 5), SHOWN)
    judged = with_details(card, operating_points=chosen, calibration={"prevalence": rates})
    result = measured_points(images(card, 6), judged, SHOWN)
    specific, sensitive = result["specific"], result["sensitive"]
    assert specific["called"] == list(SHOWN)
    assert 0 < specific["without_finding_called"][0] < 2 * FALSE_ALARMS
    assert specific["sources"] == {"a": specific["without_finding_called"]}
    assert list(specific["labels"]) == list(SHOWN)
    for rare, often in ((specific["labels"][name], sensitive["labels"][name]) for name in SHOWN):
        assert rare["present_ratio"][0] > often["present_ratio"][0] > 1 > often["absent_ratio"][0]


def test_alarms_are_those_of_the_labels_that_the_figures_allow_to_call(card: Card) -> None:
    rare = dict.fromkeys(LABELS, 0.001)  # at which no call is right often enough
    judged = with_details(card, calibration={"prevalence": rare})
    balanced = measured_points(images(card, 8), judged, SHOWN)["balanced"]
    assert balanced["called"] == []
    assert balanced["without_finding_called"][0] == 0
    assert balanced["labels"]["Effusion"]["sensitivity"][0] > 0


def test_an_image_that_the_node_refuses_gets_no_call(card: Card) -> None:
    all_seen, half_seen = (
        measured_points(images(card, 9, refused=share), card, SHOWN) for share in (0.0, 0.5)
    )
    assert all_seen["refused"] == 0 < half_seen["refused"]
    for name in SHOWN:
        before, after = (found["balanced"]["labels"][name] for found in (all_seen, half_seen))
        assert 0 < after["sensitivity"][0] < before["sensitivity"][0]
        assert after["specificity"][0] > before["specificity"][0]


def test_a_likelihood_ratio_is_a_number_where_nobody_was_called() -> None:
    truth, weights = np.array([1.0, 0.0, 0.0, 0.0]), metrics.patient_weights(["a", "b", "c", "d"])
    value = likelihood_ratio(np.zeros(4, np.bool_), truth, weights)
    assert np.isfinite([value.value, value.low, value.high]).all()
    assert likelihood_ratio(truth > 0, truth, weights).value == pytest.approx((1.5 / 2) / (0.5 / 4))


def test_a_sensitive_cut_is_the_highest_that_finds_nine_of_ten() -> None:
    truth = np.repeat([1.0, 0.0], [30, 300])
    chance = np.concatenate([np.linspace(0.6, 1.0, 30), np.linspace(0.0, 0.59, 300)])

    (cut,) = sensitive_cuts(truth, chance, np.ones((1, 330)))

    assert (chance >= cut)[truth > 0].mean() == pytest.approx(0.9)


# ``ai-pipeline evaluate chest``: figures are of adults, by source, repeatable, and on cards and pages

Figures = dict[str, Any]
MODEL = "chest-efficientnet-lite0"
EFFUSION = LABELS.index("Effusion")


@pytest.fixture(scope="module")
def download(few_pictures: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """320 films of 160 patients in the layout of the real download; the test list has 40 patients. Of every
    film there is a further opinion too: an effusion is in those with an even name.
    """
    folder = nih_download(tmp_path_factory.mktemp("nih"), patients=160)
    (folder / "cxr_labels").mkdir()
    (folder / "cxr_labels/relabelled.csv").write_text(
        "nih_name,Effusion\n"
        + "".join(f"{film.name},{(n + 1) % 2}\n" for n, film in enumerate(sorted(folder.rglob("*.png"))))
    )
    return folder


@pytest.fixture(scope="module")
def few_pictures() -> Iterator[None]:
    """The gate and the heat maps have tests of their own: here a handful of pictures are asked, what the
    network has to beat learns from a third of the images, and intervals come from a tenth of the resamples.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gate, "USUAL", 25)
        patch.setattr(gate, "MEASURED", 2)
        patch.setattr(classifier, "MOST", 80)
        patch.setattr(metrics, "RESAMPLES", 200)
        yield


@pytest.fixture(scope="module")
def result(download: Path, tmp_path_factory: pytest.TempPathFactory) -> Figures:
    return classifier.evaluate_chest(download, "test", cache=tmp_path_factory.mktemp("cache"))


def test_a_full_download_is_measured_without_being_told_what_it_is(result: Figures) -> None:
    assert result["data"]["set"] == "NIH ChestX-ray14"
    assert (result["main"]["images"], result["main"]["patients"]) == (80, 40)
    assert "Effusion" in result["main"]["labels_counted"]
    assert "Effusion" in result["calibration"]["nih"]["labels"]
    (other,) = result["opinions"].values()  # named by its source, and nothing of it in the figures above
    assert (other["images"], other["findings"]["Effusion"]["positives"]) == (80, 40)
    assert result["boxes"]["boxes"] == 1  # one box in the test list, in pixels of 1,024, of a file of 128
    assert tuple(label.name for label in registry.find(MODEL).labels) == LABELS


def test_what_it_returns_is_json_and_text(result: Figures) -> None:
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    text = figures_text(result)
    assert text.endswith("Not for diagnostic use.")
    assert "None" not in text
    assert "nan" not in text


def test_labels_without_images_have_no_figures_and_no_support(result: Figures) -> None:
    hernia = next(row for row in result["main"]["labels"] if row["label"] == "Hernia")
    assert (hernia["positives"], hernia["auc"], hernia["supported"]) == (0, [None, None, None], False)


def test_subgroups_have_enough_positives(result: Figures) -> None:
    rows = result["subgroups"]["nih"]

    assert {row["attribute"] for row in rows} == {"sex", "view", "age"}
    assert sum(row["images"] for row in rows if row["attribute"] == "sex") == 80
    assert {row["group"] for row in rows if "Effusion" in row["labels"]} >= {"F", "M"}
    assert all(cell["positives"] >= 20 for row in rows for cell in row["labels"].values())


def test_a_sites_manifest_is_measured_on_adults_by_the_labels_that_the_model_has(
    download: Path, tmp_path: Path
) -> None:
    card = tomlkit.parse((registry.SHIPPED / f"{MODEL}.toml").read_text()).unwrap()
    card["id"] = "renamed"
    other = {"Hernia": "Something else", "Pleural_Thickening": "pleural thickening"}
    card["labels"] = [row | {"name": other.get(row["name"], row["name"])} for row in card["labels"]]
    (tmp_path / "renamed.toml").write_text(tomlkit.dumps(card))
    for weights in registry.find(MODEL).weights:
        shutil.copy(weights.path, tmp_path / weights.path.name)
    images = [image for image in chest_set(download).images if image.split == "test"]
    ages = [9, 9, *(image.age for image in images[2:])]
    lines = ["file,patient_id,age,Effusion,Hernia,Pleural_Thickening"]
    lines += [
        f"{i.path},{i.patient},{age:g},{i.marks[EFFUSION]},0,0" for i, age in zip(images, ages, strict=True)
    ]
    (tmp_path / "site.csv").write_text("\n".join(lines) + "\n")

    found = classifier.evaluate_chest(tmp_path / "site.csv", "test", model="renamed", models_dir=tmp_path)

    assert (found["main"]["images"], found["with_children"]["images"]) == (78, 80)
    assert (found["labels"], found["labels_left_out"]) == (["Effusion", "Pleural_Thickening"], ["Hernia"])
    assert (found["probes"], found["model"]["id"]) == ({}, "renamed")  # there is nothing to learn from
    assert "mean_auc_hog" not in found["main"]
    assert "None" not in figures_text(found)


def test_a_split_without_images_is_refused(download: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("file,patient_id,age,Effusion,split\na.jpg,p,50,1,train\n")

    with pytest.raises(DataMissing, match="no adult of split test"):
        classifier.evaluate_chest(tmp_path / "m.csv", "test")


def test_the_source_alone_is_a_classifier_where_sources_differ() -> None:
    ill, well = _image("hospital", 1), _image("screening", 0)
    scores = baselines.source_scores([*[ill] * 20, *[well] * 20], [ill, well, _image("elsewhere", 1)])[
        :, EFFUSION
    ]
    assert scores[0] > 0.9
    assert scores[1] < 0.1
    assert scores[2] == pytest.approx(0.5)


def test_the_figures_fit_into_a_card_and_onto_its_page(result: Figures, tmp_path: Path) -> None:
    text = tomlkit.parse((registry.SHIPPED / f"{MODEL}.toml").read_text())
    text["metrics"] = card_metrics(result)
    (tmp_path / "card.toml").write_text(tomlkit.dumps(text))

    card = registry.load(tmp_path / "card.toml")
    page = "\n".join(
        [*pages.card_lines(card), *(line for one in pages.PAGES for line in pages.figure_lines(one, card))]
    )

    assert card.details["metrics"]["mean_auc"] == result["main"]["mean_auc"]
    assert page.index("Not for diagnostic use") < page.index("Intended use")
    assert "| nih | sex | F |" in page
    assert "None" not in page


def test_the_verb_prints_the_same_as_json(result: Figures, download: Path) -> None:
    done = run("--data", download, "--json")  # without the cache of the first
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[-1]) == result


def test_a_threshold_is_kept_only_where_others_are_chosen(download: Path) -> None:
    done = run("--data", download, "--keep", "Effusion")
    assert done.exit_code == 2
    assert "--choose-points" in done.output


def run(*words: object) -> Result:
    app = typer.Typer()  # whatever other modules have added to the program's own meanwhile
    app.add_typer(evaluate_app, name="evaluate")
    return CliRunner().invoke(app, ["evaluate", "chest", *map(str, words)])


def _image(source: str, effusion: int) -> SetImage:
    return SetImage(
        "a.png",
        Path("a.png"),
        "p",
        "train",
        marks=tuple(int(label == "Effusion") * effusion for label in LABELS),
        source=source,
        repository=source,
        **ADULT,
    )


def test_the_pages_about_the_models_are_those_of_the_shipped_cards() -> None:
    written = [pages.DOCS / pages.CARDS, *sorted((pages.DOCS / "models").iterdir())]
    found = {path.relative_to(pages.DOCS).as_posix(): path.read_text("utf-8") for path in written}
    assert found == pages.pages(), "run python -m ai_training.pages"
    assert {name: len(text.split()) for name, text in found.items() if len(text.split()) > 3000} == {}


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
