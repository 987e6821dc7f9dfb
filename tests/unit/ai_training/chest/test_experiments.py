"""Training runs: typed, seeded, resumable, and each lever changes what it says and nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")

import torch

from ai_pipeline.chest.classifier import Classifier
from ai_pipeline.models import registry
from ai_pipeline.models.registry import Chain, find
from ai_pipeline.networks.efficientnet import PlacedClassifier
from ai_training.chest import experiment, levers
from ai_training.chest.batches import ChestBatches, Targets, augment
from ai_training.chest.experiment import Augmentation, Experiment, ExperimentError
from ai_training.chest.fit import ClassifierRun, Material, Tasks, fit, loss_of
from ai_training.chest.pretrain import Contrast, pretrain
from ai_training.chest.ship import ship
from ai_training.sets.images import LABELS, ChestImage
from tests.unit.ai_training.chest_subset import subset

SMALL = Experiment.model_validate(
    {
        "network": {"size": 64},
        "images": {"chain": Chain(side=64)},
        "loss": {"header": 0.3, "boxes": 0.3},
        "schedule": {"batch": 4, "iterations": 4},
    }
)


def test_every_lever_of_the_shipped_study_changes_something() -> None:
    study = experiment.load_levers(experiment.shipped("chest-levers"))

    known = {"base": study.base}
    for variant in study.variants:
        made = variant.experiment
        assert made.name not in known
        assert made != known[variant.against].changed(made.name, {}), "it pulls no lever"
        known[made.name] = made


def test_the_shipped_classifier_is_made_by_a_rung_of_the_study() -> None:
    shipped = experiment.load(experiment.shipped("chest"))
    study = experiment.load_levers(experiment.shipped("chest-levers"))

    assert shipped in [variant.experiment for variant in study.variants]
    assert find("chest-efficientnet-lite0").details["training"]["experiment"] == shipped.model_dump(
        mode="json", exclude_none=True
    )


def test_all_wrong_keys_of_an_experiment_are_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("sead = 1\n[network]\nsize = 100\n[schedule]\nepochs = -1\n")

    with pytest.raises(ExperimentError) as refused:
        experiment.load(file)

    for part in ("wrong.toml", "sead", "network.size", "schedule.epochs"):
        assert part in str(refused.value)


def test_a_variant_changes_only_what_it_names() -> None:
    changed = Experiment().changed("other", {"loss": {"soft": 0.0}})

    assert changed.loss.soft == 0.0
    assert changed.model_dump(exclude={"name", "loss"}) == Experiment().model_dump(exclude={"name", "loss"})
    assert changed.loss.model_dump(exclude={"soft"}) == Experiment().loss.model_dump(exclude={"soft"})


def test_augmentation_repeats_with_its_seed_and_never_mirrors() -> None:
    image = np.zeros((128, 128), np.uint8)
    image[30:50, 10:30] = 200  # something on the left

    def copy(seed: int) -> np.ndarray:
        return augment(image, 160, Augmentation(), np.random.default_rng(seed))[0]

    np.testing.assert_array_equal(copy(5), copy(5))
    for seed in range(30):
        picture = copy(seed).astype(float)
        assert picture[:, :80].sum() > picture[:, 80:].sum()


def test_a_box_follows_its_image_through_augmentation() -> None:
    image = np.zeros((1, 128, 128), np.uint8)
    image[0, 32:48, 80:112] = 255
    box = (3, 80 / 128, 32 / 128, 112 / 128, 48 / 128)
    targets = Targets.from_images([_image("1")], [(box,)])
    made = SMALL.model_copy(
        update={
            "augment": Augmentation(rotation=0, contrast=0),
            "network": experiment.Network(size=160),
        }
    )

    for iteration in range(5):
        batch = ChestBatches(made, image, targets, np.array([0]))[iteration]
        for row, label, place in zip(batch.placed, batch.placed_label, batch.place, strict=True):
            bright = batch.images[row, 0] > 0
            rows, columns = np.indices((160, 160)) // 16
            inside = place.numpy()[rows, columns] > 0
            assert label == 3
            assert float(place.sum()) == pytest.approx(1.0, abs=1e-5)
            assert inside[bright.numpy()].mean() > 0.97


def test_the_batches_are_the_same_whoever_prepares_them(tmp_path: Path) -> None:
    material = _material(12)
    made = SMALL.changed("mixed", {"augment": {"mixup": 0.4}})
    run = ClassifierRun(made, material, Targets.from_images(material.images, [()] * 12), tmp_path)
    prepared = []
    for run.workers in (0, 1):
        prepared.append(list(run.batches(range(1, 4))))

    for one, other in zip(*prepared, strict=True):
        torch.testing.assert_close(one.images, other.images)
        torch.testing.assert_close(one.soft, other.soft)


def test_what_the_loss_leaves_out_has_no_gradient() -> None:
    tasks = Tasks(_network())
    pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64)).astype(np.uint8)
    targets = Targets.from_images(
        [_image(str(number)) for number in range(4)], [((0, 0.2, 0.2, 0.6, 0.6),)] * 4
    )
    batch = ChestBatches(SMALL, pixels, targets, np.arange(4))[0]

    def learns(change: dict[str, float]) -> tuple[bool, bool]:
        tasks.zero_grad()
        loss_of(tasks(batch.images), batch, SMALL.changed("x", {"loss": change}).loss).backward()
        heads = (tasks.header.weight.grad, tasks.place.weight.grad)
        return heads[0] is not None and bool(heads[0].any()), heads[1] is not None and bool(heads[1].any())

    assert learns({}) == (True, True)
    assert learns({"header": 0.0}) == (False, True)
    assert learns({"boxes": 0.0}) == (True, False)


def test_the_merged_head_says_what_both_heads_say_in_units_of_their_spread() -> None:
    tasks = Tasks(_network()).eval()
    pooled = np.random.default_rng(0).normal(size=(50, tasks.network.head.in_features)).astype(np.float32)

    merged = tasks.merged(pooled, share=2.0).head

    with torch.no_grad():
        features = torch.from_numpy(pooled)
        own, taught = tasks.network.head(features), tasks.teacher(features)
        torch.testing.assert_close(merged(features), own / own.std(0) + 2 * taught / taught.std(0))


def test_an_interrupted_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    material = _material(24)
    targets = Targets.from_images(material.images, [()] * 24)

    def run(folder: str, until: int) -> ClassifierRun:
        started = ClassifierRun(SMALL, material, targets, tmp_path / folder)
        if started.begun:
            started.load()
        started.train(until=until)
        started.save()
        return started

    whole = run("whole", 4)
    run("parts", 2)
    parts = run("parts", 4)

    for name, value in whole.average.state_dict().items():
        torch.testing.assert_close(parts.average.state_dict()[name], value)


def test_a_checkpoint_of_another_experiment_is_refused(tmp_path: Path) -> None:
    material = _material(12)
    targets = Targets.from_images(material.images, [()] * 12)
    first = ClassifierRun(SMALL, material, targets, tmp_path)
    first.save()

    with pytest.raises(ValueError, match="another experiment"):
        ClassifierRun(SMALL.changed("other", {"seed": 2}), material, targets, tmp_path).load()


@pytest.mark.data
def test_training_leaves_a_folder_of_models_that_runs(data: Path, tmp_path: Path) -> None:
    small, out = subset(data, tmp_path / "data", per_split=16), tmp_path / "out"
    made = SMALL.changed("tiny", {"schedule": {"iterations": 2}, "seed": 3})

    card = registry.load(ship(small, out, fit(small, out, made), out / "cache"))

    registry.verify(card)
    assert card.path.parent == out
    assert not any(label.supported for label in card.labels)  # until it is evaluated
    analysis = Classifier(card).analyse(np.zeros((300, 200), np.uint8))
    assert analysis.logits.shape == (len(LABELS),)
    onnx = card.file("classifier").path.read_bytes()
    assert b"site-packages" not in onnx, "the exporter's notes name this machine's folders"


@pytest.mark.data
def test_levers_are_compared_on_the_same_validation_images(data: Path, tmp_path: Path) -> None:
    small = subset(data, tmp_path / "data", per_split=16)
    base = SMALL.changed("base", {})
    soft = experiment.Variant(experiment=base.changed("soft", {"loss": {"soft": 0.0}}), against="base")
    study = experiment.Levers(base=base, variants=(soft,))

    rows = levers.pull(small, tmp_path / "out", study)
    again = levers.pull(small, tmp_path / "out", study)  # nothing is trained a second time

    assert [row.name for row in rows] == ["base", "soft"]
    assert rows[0].difference is None
    assert rows[1].difference is not None
    assert repr(rows) == repr(again)  # an area that cannot be told is NaN, which equals nothing
    assert (tmp_path / "out" / "levers.csv").read_text().count("\n") == 3


@pytest.mark.data
def test_pretraining_leaves_a_backbone_that_an_experiment_starts_from(data: Path, tmp_path: Path) -> None:
    small = subset(data, tmp_path / "data", per_split=16)
    how = Contrast(size=64, batch=8, epochs=0.3, queue=32)
    left = pretrain(small, tmp_path / "pre", how)
    made = SMALL.changed("started", {"network": {"initial": str(left)}})
    material = _material(12)

    started = ClassifierRun(made, material, Targets.from_images(material.images, [()] * 12), tmp_path / "run")

    known = torch.load(left, weights_only=True)
    torch.testing.assert_close(
        started.tasks.network.backbone.state_dict()["_conv_head.weight"], known["backbone._conv_head.weight"]
    )


def _network() -> PlacedClassifier:
    return PlacedClassifier(len(LABELS), 64)


def _material(count: int) -> Material:
    images = tuple(_image(str(number), "val" if number % 3 == 2 else "train") for number in range(count))
    pixels = np.random.default_rng(0).integers(0, 256, (count, 64, 64)).astype(np.uint8)
    return Material(images, pixels)


def _image(name: str, split: str = "train") -> ChestImage:
    return ChestImage(
        path=Path(f"{name}.png"),
        labels=tuple((int(name) >> k) % 2 for k in range(len(LABELS))),
        soft=None,
        patient=name,
        split=split,
        source="made",
        repository="made",
        age=40.0,
        sex="F",
        view="PA",
    )
