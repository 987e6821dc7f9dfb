"""Checkpoints of other projects become models that answer as those projects do; a pickle runs nothing."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from typer.testing import CliRunner, Result

from ai_pipeline.chest.classifier import Classifier, probability
from ai_pipeline.cli import app
from ai_pipeline.errors import CardError
from ai_pipeline.models.inputs import network_input
from ai_pipeline.models.registry import find
from ai_pipeline.models.store import convert as conversion
from ai_pipeline.models.store import sandbox
from ai_pipeline.models.store.conversion_request import Request
from ai_pipeline.networks import foreign

Expected = dict[str, npt.NDArray[Any]]
FOURTEEN = ",".join(f"label {number}" for number in range(14))


def convert(checkpoint: Path, family: str, *more: str) -> Result:
    words = ["models", "convert", str(checkpoint), "--from", family, "--out", str(checkpoint.parent), *more]
    return CliRunner().invoke(app, words)


def request(checkpoint: Path, **changes: Any) -> Request:
    asked = Request(
        checkpoint=str(checkpoint),
        family="xrv",
        architecture="densenet121-res224-all",
        labels=(),
        size=None,
        softmax=False,
        form="onnx",
        seconds=300,
    )
    return asked.model_copy(update=changes)


@pytest.mark.usefixtures("confinement")
def test_torchxrayvision_s_network_says_the_same_through_its_converted_file(
    tmp_path: Path, made: Callable[[str], Expected]
) -> None:
    expected = made("torchxrayvision")

    done = convert(tmp_path / "checkpoint.pt", "xrv", "--architecture", "densenet121-res224-all", "--trust")

    assert done.exit_code == 0, done.output
    card = find("xrv-densenet121-res224-all", tmp_path)
    assert card.input is not None
    values, _ = network_input(expected["image"], card.input)
    np.testing.assert_allclose(values, expected["input"], atol=1e-2)  # of -1024..1024
    classifier = Classifier(card, threads=1)
    found = classifier.analyse(expected["image"])
    ours = [classifier.probability(found, index) for index in range(18)]
    np.testing.assert_allclose(ours, expected["scores"][0], atol=1e-4)
    assert np.ptp(ours) > 0.1  # else the comparison says nothing
    assert [label.name for label in card.labels][-3:] == [
        "Fracture",
        "Lung Opacity",
        "Enlarged Cardiomediastinum",
    ]
    assert not any(label.supported for label in card.labels)
    assert not card.calibrated


@pytest.mark.usefixtures("confinement")
def test_timm_s_network_says_the_same_through_its_converted_file(
    tmp_path: Path, made: Callable[[str], Expected]
) -> None:
    expected = made("timm")

    done = convert(
        tmp_path / "checkpoint.pth",
        "timm",
        "--architecture",
        "resnet18",
        "--labels",
        "Mass,Nodule,Other",
        "--trust",
    )

    assert done.exit_code == 0, done.output
    card = find("timm-resnet18", tmp_path)
    assert card.input is not None
    values, _ = network_input(expected["image"], card.input)
    np.testing.assert_allclose(values, expected["input"], atol=0.02)  # one grey level is .017
    found = Classifier(card, threads=1).analyse(expected["image"])
    np.testing.assert_allclose(found.logits, expected["scores"][0], atol=2e-3)
    assert found.places is not None
    assert found.places.shape == (3, 7, 7)


@pytest.mark.usefixtures("confinement")
def test_chexnet_s_old_checkpoints_become_safetensors_that_torch_runs_alike(
    tmp_path: Path, made: Callable[[str], Expected]
) -> None:
    expected = made("chexnet")

    done = convert(
        tmp_path / "checkpoint.pth.tar",
        "torchvision",
        "--architecture",
        "densenet121",
        "--labels",
        FOURTEEN,
        "--to",
        "safetensors",
        "--trust",
    )

    assert done.exit_code == 0, done.output
    classifier = Classifier(find("torchvision-densenet121", tmp_path), threads=1)
    outputs = classifier._engine(expected["input"])
    np.testing.assert_allclose(outputs["logits"], expected["scores"], atol=1e-4)
    mean = outputs["places"].mean((2, 3)) - outputs["logits"]
    np.testing.assert_allclose(mean, mean[:1], atol=1e-3)  # class activation: but for the bias the logit


@pytest.mark.usefixtures("confinement")
def test_an_ultralytics_classifier_says_the_same_through_its_converted_file(
    tmp_path: Path, made: Callable[[str], Expected]
) -> None:
    expected = made("ultralytics")

    done = convert(tmp_path / "checkpoint.pt", "ultralytics", "--trust")

    assert done.exit_code == 0, done.output
    card = find("ultralytics-checkpoint", tmp_path)
    assert [label.name for label in card.labels] == ["dark", "light"]
    assert "AGPL-3.0" in card.licence
    assert card.input is not None
    values, _ = network_input(expected["image"], card.input)
    np.testing.assert_allclose(values, expected["input"], atol=0.02)
    classifier = Classifier(card, threads=1)
    found = classifier.analyse(expected["image"])
    ours = [classifier.probability(found, index) for index in range(2)]
    np.testing.assert_allclose(ours, expected["scores"][0], atol=5e-3)


def test_without_trust_a_pickle_is_not_opened(tmp_path: Path) -> None:
    checkpoint = _bomb(tmp_path)

    done = convert(checkpoint, "xrv", "--architecture", "densenet121-res224-all")

    assert done.exit_code == 2
    assert "a pickle is code" in " ".join(done.output.replace("│", " ").split())


def test_the_help_says_that_a_pickle_is_code() -> None:
    done = CliRunner().invoke(app, ["models", "convert", "--help"])

    assert "a pickle is code" in " ".join(done.output.split())


@pytest.mark.usefixtures("confinement")
def test_what_a_pickle_wants_to_run_is_not_run(tmp_path: Path) -> None:
    done = convert(_bomb(tmp_path), "xrv", "--architecture", "densenet121-res224-all", "--trust")

    assert done.exit_code == 65
    assert "no parameters" in done.output
    assert not (tmp_path / "ran").exists()
    assert not list(tmp_path.glob("*.onnx"))


def test_parameters_of_another_network_are_refused_in_one_line(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    torch.save({"conv0.weight": torch.zeros(1, 1, 1, 1), "classifier.weight": torch.zeros(18, 4)}, checkpoint)

    done = convert(checkpoint, "xrv", "--architecture", "densenet121-res224-all", "--trust")

    assert done.exit_code == 65
    assert len(done.output.strip().splitlines()) == 1


@pytest.mark.usefixtures("confinement")
def test_a_conversion_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.touch()

    with pytest.raises(CardError, match="longer than 0 s"):
        conversion.convert(request(checkpoint, seconds=0), tmp_path, trust=True)


def test_nothing_is_converted_where_no_walls_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "walls", lambda: "none")

    with pytest.raises(CardError, match="Debian package bubblewrap"):
        conversion.convert(request(_bomb(tmp_path)), tmp_path, trust=True)


def test_an_answer_that_is_a_link_or_no_answer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")

    for name in ("secret", "link", "pipe", "missing"):
        with pytest.raises(CardError, match="not one"):
            conversion._answer(tmp_path / name)


@pytest.mark.parametrize("form", ["onnx", "safetensors"])
def test_landlock_alone_lets_a_conversion_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(sandbox, "_bubblewrap", lambda: "")
    monkeypatch.setattr(sandbox, "require", lambda: None)  # of root, who may be running this
    if sandbox.walls() != "landlock":
        pytest.skip("this kernel has no Landlock of 6.2")
    network = foreign.timm_network("densenet121", 2, 3)
    torch.save(network.state_dict(), tmp_path / "checkpoint.pt")
    asked = request(
        tmp_path / "checkpoint.pt",
        family="torchvision",
        architecture="densenet121",
        labels=("A", "B"),
        form=form,
    )

    made = conversion.convert(asked, tmp_path / "out", trust=True)

    assert made.answer.labels == ("A", "B")
    assert (tmp_path / "out" / f"torchvision-densenet121.{form}").is_file()


def test_an_operating_point_becomes_one_half_and_the_ends_stay() -> None:
    label = find("chest-efficientnet-lite0").labels[0]
    bent = type(label)(**{**_fields(label), "slope": 1.0, "intercept": 0.0, "operating_point": 0.2})
    logit = float(np.log(0.2 / 0.8))

    assert probability(bent, logit) == pytest.approx(0.5)
    assert probability(bent, -50.0) == pytest.approx(0.0, abs=1e-9)
    assert probability(bent, 50.0) == pytest.approx(1.0)


def _bomb(folder: Path) -> Path:
    """A pickle that would leave a file behind if what it says were run."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {folder}/ran",)

    path = folder / "checkpoint.pt"
    torch.save({"state_dict": Bomb(), "more": Bomb()}, path, pickle_module=pickle)
    return path


def _fields(label: Any) -> dict[str, Any]:
    return {name: getattr(label, name) for name in label.__slots__}
