"""No card, no model; altered weights are refused; codes are the ones that the standard has."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import sys
from pathlib import Path

import pytest
import tomlkit
from pydicom.sr.codedict import codes

from ai_pipeline.errors import CardError
from ai_pipeline.models import registry

CHEST = "chest-efficientnet-lite0"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder of one's own with a copy of the chest model."""
    for file in (
        registry.SHIPPED / f"{CHEST}.toml",
        *(registry.SHIPPED.parent / "weights").glob(f"{CHEST}.*"),
    ):
        shutil.copy(file, tmp_path / file.name)
    return tmp_path


def test_every_shipped_card_can_be_read_and_the_chest_weights_are_what_it_says() -> None:
    assert CHEST in {card.id for card in registry.cards()}
    registry.verify(registry.find(CHEST))


def test_the_reference_names_weights_and_card_by_their_hashes() -> None:
    card = registry.find(CHEST)

    assert card.ref.sha256 == hashlib.sha256(card.file("classifier").path.read_bytes()).hexdigest()
    assert card.ref.card_sha256 == hashlib.sha256(card.path.read_bytes()).hexdigest()


def test_a_model_without_a_card_is_refused() -> None:
    with pytest.raises(CardError, match="no card, no model"):
        registry.find("someone-elses-model")


def test_altered_weights_are_refused_by_their_hash(models: Path) -> None:
    card = registry.find(CHEST, models)
    weights = card.file("classifier").path
    weights.write_bytes(weights.read_bytes()[:-1] + b"\0")

    with pytest.raises(CardError, match="SHA-256"):
        registry.verify(card)


def test_missing_weights_are_named(models: Path) -> None:
    (models / f"{CHEST}.gate.npz").unlink()
    card = registry.load(_renamed_weights(models))

    with pytest.raises(CardError, match=r"elsewhere\.npz"):
        registry.verify(card)


def test_a_card_in_ones_own_folder_replaces_the_shipped_one(models: Path) -> None:
    card = models / f"{CHEST}.toml"
    shipped = registry.load(card).version
    card.write_text(card.read_text().replace(f'version = "{shipped}"', 'version = "site-7"', 1))

    found = registry.find(CHEST, models)

    assert found.version == "site-7"
    assert found.file("classifier").path.parent == models


def test_the_folder_may_be_named_by_the_environment(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(registry.MODELS_DIR, str(models))

    assert registry.find(CHEST).path.parent == models


@pytest.mark.parametrize("key", ["licence", "intended_use", "architecture"])
def test_an_incomplete_card_names_the_missing_key(models: Path, key: str) -> None:
    card = models / f"{CHEST}.toml"
    card.write_text("\n".join(line for line in card.read_text().splitlines() if not line.startswith(key)))

    with pytest.raises(CardError, match=key):
        registry.load(card)


def test_thresholds_that_contradict_each_other_are_refused(models: Path) -> None:
    card = models / f"{CHEST}.toml"
    lines = [
        "absent_below = 0.999" if line.startswith("absent_below") else line
        for line in card.read_text().splitlines()
    ]
    card.write_text("\n".join(lines))

    with pytest.raises(CardError, match="absent_below"):
        registry.load(card)


def test_a_card_of_brackets_is_refused(models: Path) -> None:
    card = models / f"{CHEST}.toml"
    card.write_text("a = " + "[" * 5000)

    with pytest.raises(CardError, match="is not TOML"):
        registry.load(card)


@pytest.mark.parametrize("text", ['=HYPERLINK("http://x")', "@x", "A\nB", "Nowak^Anna", "A\u0000B", ""])
@pytest.mark.parametrize("key", ["name", "meaning"])
def test_a_label_whose_text_results_may_not_show_is_refused(models: Path, key: str, text: str) -> None:
    card = models / f"{CHEST}.toml"
    values = tomlkit.parse(card.read_text())
    label = values["labels"][0]  # type: ignore[index]
    (label if key == "name" else label["code"])[key] = text  # type: ignore[index]
    card.write_text(tomlkit.dumps(values))

    with pytest.raises(CardError, match=r"labels\[0\]"):
        registry.load(card)


def test_every_label_says_where_its_code_comes_from() -> None:
    for label in registry.find(CHEST).labels:
        assert label.code_source
        assert len(label.code.meaning) <= 64  # Code Meaning is LO


def test_codes_that_the_standard_has_are_written_as_the_standard_writes_them() -> None:
    labels = {label.name: label for label in registry.find(CHEST).labels}
    standard = {
        "Effusion": codes.SCT.PleuralEffusion,
        "Infiltration": codes.DCM.Infiltrate,
        "Pneumothorax": codes.SCT.Pneumothorax,
        "Edema": codes.SCT.PulmonaryEdema,
    }
    for name, code in standard.items():
        ours = labels[name].code
        assert (ours.value, ours.scheme, ours.meaning) == (code.value, code.scheme_designator, code.meaning)


def test_sites_are_the_standards_anatomy() -> None:
    known = {
        code.value: code.meaning
        for code in (codes.SCT.Lung, codes.SCT.Heart, codes.SCT.Pleura, codes.SCT.Diaphragm)
    }
    for label in registry.find(CHEST).labels:
        assert label.site is not None
        assert known[label.site.value] == label.site.meaning


def test_cardiomegaly_is_not_the_enlarged_septal_foramen_of_pydicoms_dictionary() -> None:
    labels = {label.name: label for label in registry.find(CHEST).labels}

    assert labels["Cardiomegaly"].code.value == "8186001"


def test_only_labels_with_enough_test_images_and_better_than_chance_are_supported() -> None:
    card = registry.find(CHEST)
    figures = card.details["metrics"]["labels"]
    elsewhere = card.details["external"]["auc"]

    for label in card.labels:
        lows = [figures[label.name]["auc"][1], elsewhere.get(label.name, (1, 1, 1))[1]]
        assert label.supported == (figures[label.name]["positives"] >= 15 and min(lows) > 0.5)


def _renamed_weights(models: Path) -> Path:
    card = models / f"{CHEST}.toml"
    card.write_text(card.read_text().replace(f"{CHEST}.gate.npz", "elsewhere.npz"))
    return card


@pytest.mark.parametrize("package", ["evilmod.sub", "evilmod", "../evilmod", ""])
def test_the_package_of_a_card_is_not_imported_to_find_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    (tmp_path / "evilmod").mkdir()
    for name in ("__init__", "sub"):
        code = f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
        (tmp_path / "evilmod" / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    text = (registry.SHIPPED / "burnin-text.toml").read_text(encoding="utf-8")
    card = tmp_path / "evil.toml"
    card.write_text(text.replace('package = "rapidocr"', f'package = "{package}"'), encoding="utf-8")

    with contextlib.suppress(CardError):
        registry.verify(registry.load(card))

    assert not (tmp_path / "ran").exists()
    assert not [name for name in sys.modules if name.startswith("evilmod")]


def test_a_package_with_a_dot_is_named_as_a_fault(tmp_path: Path) -> None:
    text = (registry.SHIPPED / "burnin-text.toml").read_text(encoding="utf-8")
    card = tmp_path / "evil.toml"
    card.write_text(text.replace('package = "rapidocr"', 'package = "os.path"'), encoding="utf-8")

    with pytest.raises(CardError, match="must be the name of an installed package"):
        registry.load(card)
