"""Cards of models."""

import contextlib
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import tomlkit
from pydicom.sr.codedict import codes

from ai_pipeline.errors import CardError
from ai_pipeline.models import registry
from tests.unit.ai_pipeline.models.store_lab import SHIPPED

CARD = registry.find(SHIPPED)


@pytest.fixture
def own_models(tmp_path: Path) -> Path:
    """A folder of one's own with a copy of the chest model."""
    for file in (
        registry.SHIPPED / f"{SHIPPED}.toml",
        *(registry.SHIPPED.parent / "weights").glob(f"{SHIPPED}.*"),
    ):
        shutil.copy(file, tmp_path / file.name)
    return tmp_path


def test_every_shipped_card_can_be_read_and_its_weights_are_what_it_says() -> None:
    assert SHIPPED in {card.id for card in registry.cards()}
    for card in registry.cards():
        registry.verify(card)
    with pytest.raises(CardError, match="no card, no model"):
        registry.find("someone-elses-model")


def test_a_card_in_ones_own_folder_replaces_the_shipped_one(
    own_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = own_models / f"{SHIPPED}.toml"
    shipped = registry.load(card).version
    card.write_text(card.read_text().replace(f'version = "{shipped}"', 'version = "site-7"', 1))
    found = registry.find(SHIPPED, own_models)
    assert (found.version, found.file("classifier").path.parent) == ("site-7", own_models)
    monkeypatch.setenv(registry.MODELS_DIR, str(own_models))
    assert registry.find(SHIPPED).path.parent == own_models


@pytest.mark.parametrize("text", ['=HYPERLINK("http://x")', "@x", "A\nB", "Nowak^Anna", "A\u0000B", ""])
@pytest.mark.parametrize("key", ["name", "meaning"])
def test_a_label_whose_text_results_may_not_show_is_refused(own_models: Path, key: str, text: str) -> None:
    card = own_models / f"{SHIPPED}.toml"
    values = tomllib.loads(card.read_text())
    label = values["labels"][0]
    (label if key == "name" else label["code"])[key] = text
    card.write_text(tomlkit.dumps(values))
    with pytest.raises(CardError, match=r"labels\[0\]"):
        registry.load(card)


def test_a_card_of_brackets_is_refused(tmp_path: Path) -> None:
    (tmp_path / "card.toml").write_text("a = " + "[" * 5000)
    with pytest.raises(CardError, match="is not TOML"):
        registry.load(tmp_path / "card.toml")


def test_codes_that_the_standard_has_are_written_as_the_standard_writes_them() -> None:
    labels = {label.name: label.code for label in CARD.labels}
    standard = {
        "Effusion": codes.SCT.PleuralEffusion,
        "Infiltration": codes.DCM.Infiltrate,
        "Pneumothorax": codes.SCT.Pneumothorax,
        "Edema": codes.SCT.PulmonaryEdema,
    }
    written = {name: (code.value, code.scheme_designator, code.meaning) for name, code in standard.items()}
    assert {n: (labels[n].value, labels[n].scheme, labels[n].meaning) for n in standard} == written
    # pydicom's dictionary calls the enlarged septal foramen by this name
    assert labels["Cardiomegaly"].value == "8186001"


def test_only_labels_with_enough_test_images_and_better_than_chance_are_supported() -> None:
    figures, elsewhere = CARD.details["metrics"]["labels"], CARD.details["external"]["auc"]
    for label in CARD.labels:
        lows = [figures[label.name]["auc"][1], elsewhere.get(label.name, (1, 1, 1))[1]]
        assert label.supported == (figures[label.name]["positives"] >= 15 and min(lows) > 0.5)


@pytest.mark.parametrize("package", ["evilmod.sub", "evilmod", "../evilmod", ""])
def test_the_package_of_a_card_is_not_imported_to_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    (tmp_path / "evilmod").mkdir()
    for name in ("__init__", "sub"):
        (tmp_path / "evilmod" / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(tmp_path)
    text, card = (registry.SHIPPED / "burnin-text.toml").read_text(encoding="utf-8"), tmp_path / "evil.toml"
    card.write_text(text.replace('package = "rapidocr"', f'package = "{package}"'), encoding="utf-8")
    with contextlib.suppress(CardError):
        registry.verify(registry.load(card))
    assert not (tmp_path / "ran").exists()
    assert not [name for name in sys.modules if name.startswith("evilmod")]
