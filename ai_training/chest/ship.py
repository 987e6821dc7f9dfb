"""Make a folder of models from a finished run: places, calibration, thresholds, gate, ONNX file, card."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tomlkit
import torch
from torch import Tensor

from ai_pipeline.chest.classifier import CANDIDATES, NETWORK, YOLO, BoxTemplates, share_inside
from ai_pipeline.models.inputs import normalise, prepare, reduce
from ai_pipeline.models.registry import SHIPPED, Chain
from ai_training.base import Report, silent
from ai_training.calibration import THRESHOLDS, calibrated, prevalence, reference
from ai_training.cards import changed_card, export, weights_row
from ai_training.chest import gates
from ai_training.chest.fit import MEAN, SCALE, Experiment, Material, Trained, infer
from ai_training.chest.gates import TRUE_POSITIVE_RATE
from ai_training.networks.backbones import StartWeights
from ai_training.networks.efficientnet import NAME, OUTPUTS, PlacedNetwork, fuse
from ai_training.sets.chest import chest_set, label_matrix
from ai_training.sets.images import LABELS, TruthBox, read_grey
from ai_training.sets.published import NAME as SHIPPED_SET

AT_ONCE = 8


def fit_places(
    network: PlacedNetwork, data: Path, experiment: Experiment, known: Sequence[str] = LABELS
) -> BoxTemplates:
    """Set ``network.place`` and ``network.place_bias``; returns the box templates from which the maps choose.

    There are no templates if the train split of ``data`` has no boxes. ``known``: the labels of ``network``.
    """
    boxes = tuple(box for box in chest_set(data).boxes if box.split == "train" and box.label in known)
    if not boxes:
        torch.nn.init.zeros_(network.place.weight)
        torch.nn.init.zeros_(network.place_bias)
        return BoxTemplates(np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
    paths = sorted({box.path for box in boxes})
    maps = torch.from_numpy(middle_maps(network, paths, experiment.images.chain, experiment.size))
    centre, spread, cells = maps.mean(0), maps.std((0, 2, 3)), maps.shape[-1]
    standard = ((maps - centre) / spread[:, None, None]).flatten(2).transpose(1, 2)
    labels = np.array([known.index(box.label) for box in boxes])
    covered = np.stack([box_mask(box, cells) for box in boxes])
    # A hundredth of the average map, so that no place is impossible.
    priors = {int(k): np.log(covered[labels == k].mean(0) + 0.01) for k in np.unique(labels)}
    torch.manual_seed(experiment.seed)
    weight, trust = learn_choices(
        standard[[paths.index(box.path) for box in boxes]],
        torch.from_numpy(np.stack([priors[k] for k in labels.tolist()])).flatten(1),
        torch.from_numpy(covered / covered.sum((1, 2), keepdims=True)).flatten(1),
        torch.from_numpy(labels),
        # The decay was chosen on the validation boxes.
        {"rate": 0.01, "steps": 300, "decay": 0.01, "own": 4.0, "trust": 1.0},
    )
    corners = np.array([np.divide(box.corners, box.side) for box in boxes], np.float32)
    usual = np.empty(len(boxes), np.float32)
    network.place.weight.data.zero_()
    for label, prior in priors.items():
        learned = weight[label] / spread
        shift = torch.einsum("c,chw->hw", learned, centre)
        network.place.weight.data[label, :, 0, 0] = learned
        network.place_bias.data[label] = trust * torch.from_numpy(prior) - shift
        rows = labels == label
        usual[rows] = share_inside(np.exp(prior), corners[rows])
    return BoxTemplates(labels.astype(np.int64), corners, usual)


def middle_maps(
    network: PlacedNetwork,
    paths: Sequence[Path],
    chain: Chain,
    size: int,
    levels: tuple[float, float] = (MEAN, SCALE),
    report: Report = silent,
) -> npt.NDArray[np.float32]:
    """The middle layers ``[N, C, h, w]`` of images; ``levels``: mean and scale of the network's input.

    Raises DataMissing if an image cannot be read.
    """
    network.eval()
    parts: list[npt.NDArray[np.float32]] = []
    for start in range(0, len(paths), AT_ONCE):
        squares = [prepare(read_grey(path), chain, size)[0] for path in paths[start : start + AT_ONCE]]
        with torch.inference_mode():
            parts.append(network.maps(torch.from_numpy(normalise(np.stack(squares), *levels)))[1].numpy())
        report((start + len(squares)) / len(paths), "reading images")
    return np.concatenate(parts)


def learn_choices(
    inputs: Tensor, prior: Tensor, wanted: Tensor, labels: Tensor, how: Mapping[str, Any]
) -> tuple[Tensor, float]:
    """Weights with which the right ones of M choices score highest: ``[labels, F]``, and the prior's weight.

    ``inputs [N, M, F]``; ``prior`` and ``wanted``, a distribution: ``[N, M]``; ``labels [N]``. All labels
    share one weight vector, and each adds its own, which ``decay`` holds ``own`` times as tight.
    """
    shared = torch.zeros(inputs.shape[2], requires_grad=True)
    own = torch.zeros(int(labels.max()) + 1, inputs.shape[2], requires_grad=True)
    trust = torch.full((1,), how["trust"], requires_grad=True)
    optimiser = torch.optim.Adam([shared, own, trust], lr=how["rate"])
    for _ in range(how["steps"]):
        scores = torch.einsum("nmf,nf->nm", inputs, shared + own[labels]) + trust * prior
        loss = -(wanted * torch.log_softmax(scores, 1)).sum(1).mean()
        loss = loss + how["decay"] * (shared.square().sum() + how["own"] * own.square().sum())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (shared + own).detach(), float(trust.detach())


def box_mask(box: TruthBox, cells: int) -> npt.NDArray[np.float32]:
    """How much of each cell of a grid lies in the box: ``[cells, cells]``, 0 to 1."""
    fine = 16 * cells
    mask = np.zeros((fine, fine), np.float32)
    left, top, right, bottom = (edge * fine / box.side for edge in box.corners)
    mask[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))] = 1.0
    return np.asarray(cv2.resize(mask, (cells, cells), interpolation=cv2.INTER_AREA), np.float32)


COMPARED = (
    "mean_auc",
    "mean_auc_hog",
    "difference_to_hog",
    "mean_auc_age_sex_view",
    "difference_to_age_sex_view",
)
OPERATING = ("sensitivity_present", "specificity_present", "sensitivity_not_absent", "specificity_not_absent")


def card_metrics(result: Mapping[str, Any]) -> dict[str, Any]:
    """The table ``[metrics]`` for the result of an evaluation: plain values, no None (TOML has none)."""
    main = result["main"]
    boxes = result["boxes"] or {}
    called = result["called"]
    metrics: dict[str, Any] = {
        "set": (
            f"{result['data']['main']}, {result['split']}: {main['images']} images of "
            f"{main['patients']} adults; [value, low, high], 95 % by bootstrap over patients"
        ),
        "images": main["images"],
        "patients": main["patients"],
        "mean_auc_labels": main["labels_counted"],
        **{key: main.get(key) for key in COMPARED},
        "mean_average_precision": main["mean_average_precision"],
        "permuted_labels": result["permuted_labels"],
        "with_children": {key: result["with_children"][key] for key in ("images", "mean_auc")},
        "within_source": result["within_source"],
        "source_probe": result["probes"].get("source"),
        "teacher": result["teacher"],
        "top3": called["top3"],
        "all_findings": called.get("all_findings"),
        "operating_points": result["operating_points"]["tested"],
        **{key: boxes.get(key) for key in ("pointing", "iou_at_least_0.3")},
        "gate": result["gate"],
        "labels": {
            row["label"]: ({key: row[key] for key in ("positives", "auc", "average_precision", *OPERATING)})
            for row in main["labels"]
        },
        "sources": {
            row["source"]: (
                {key: row[key] for key in ("images", "patients", "mean_auc", "labels", "left_out")}
            )
            for row in result["sources"]
        },
        "calibration": {name: _calibration(found) for name, found in result["calibration"].items()},
        "subgroups": [
            {"set": name, **row}
            for name, rows in result["subgroups"].items()
            for row in rows
            if row["labels"]
        ],
    }
    return {
        key: known for key, value in metrics.items() if (known := known_only(value)) not in (None, {}, [])
    }


def _calibration(found: Mapping[str, Any]) -> dict[str, Any]:
    labels = {name: {"prevalence": found["prevalence"][name], **row} for name, row in found["labels"].items()}
    known = ("natural_prevalence", "images", "mean_ece", "mean_brier")
    return {**{key: found[key] for key in known if key in found}, "labels": labels}


def known_only(value: Any) -> Any:
    """A copy of ``value`` without the figures that are None."""
    if isinstance(value, Mapping):
        known = {key: known_only(item) for key, item in value.items()}
        return {key: item for key, item in known.items() if item is not None}
    if isinstance(value, list):
        return None if None in value else [known_only(item) for item in value]
    return value


ID = "chest-efficientnet-lite0"
TOLD_OF_SHIPPED = ("mined from", "224 pixels", "another network", "NIH Clinical Center", "from a detector")
"""Words of the shipped card's limits that are true of its own training alone."""


def export_onnx(network: PlacedNetwork, size: int, path: Path) -> None:
    """Write ``network`` as ONNX: input ``images`` with a free batch size, outputs as ``OUTPUTS`` names them.

    The batch normalisations of EfficientNet-Lite0 are folded in (``network`` is changed), the parameters keep
    their names.
    """
    fuse(network.eval())
    export(
        network.to(memory_format=torch.contiguous_format),  # type: ignore[call-overload]
        (torch.zeros(2, 3, size, size),),
        {"images": {0: torch.export.Dim("batch")}},
        OUTPUTS,
        path,
        path.stem,
    )


def card_id(backbone: str) -> str:
    """The id of the card of a chest classifier on ``backbone``."""
    return f"chest-{re.sub('[^A-Za-z0-9._+-]+', '-', backbone)}"[:64]


def forget_detector(card: Any) -> None:
    """Remove the box detector from ``card`` (a TOML document): it was fitted to the layers of
    other weights.
    """
    kept = [weights for weights in card["weights"] if weights["role"] not in {NETWORK, CANDIDATES, YOLO}]
    card["weights"] = tomlkit.aot()
    card["weights"].extend(kept)
    card.pop("detection", None)
    for row in card["labels"]:
        row.pop("detector", None)


def write_metrics(path: Path, result: dict[str, Any]) -> None:
    """Put the test figures of ``ai-pipeline evaluate chest`` into the card at ``path``.

    A label is supported if its test images hold at least 15 positives and the lower end of its AUC's interval
    is above .5, there and in external measurements (``[external]``, which is kept). If the card lacks
    operating points, those of the validation split are added. The card counts how often the test split was
    used.
    """
    shown = {row["label"]: row["supported"] for row in result["main"]["labels"]}
    with changed_card(path) as card:
        looks = card.get("metrics", {}).get("looks", 0) + (result["split"] == "test")
        card["metrics"] = {"looks": looks, **card_metrics(result)}
        if chosen := result["operating_points"]["chosen"]:
            card["operating_points"] = chosen
        for row in card["labels"]:
            row["supported"] = shown.get(row["name"], False)


def ship(data: Path, out: Path, trained: Trained, cache: Path, report: Report = silent) -> Path:
    """Export the chosen network; calibration, thresholds and gate come from the validation split.

    Returns the card, which with its weights makes ``out`` a folder of models: labels and codes are those of
    the shipped one, no label is supported until ``ai-pipeline evaluate`` says so. Raises DataMissing.
    """
    out.mkdir(parents=True, exist_ok=True)
    experiment, found = trained.experiment, chest_set(data)
    backbone, size = experiment.network.architecture, experiment.size
    material = Material.gather(data, experiment, cache, report)
    labels, columns = material.labels, [LABELS.index(label) for label in material.labels]
    network = trained.network if len(labels) == len(LABELS) else trained.network.narrowed(columns)
    places = fit_places(network, data, experiment, labels)

    def see(pictures: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        return infer(network, np.stack([reduce(one, experiment.images.chain)[0] for one in pictures]), size)[
            1
        ]

    gate, limit = gates.fit(data, see, experiment.seed, report)
    learned, validated = material.rows("train", experiment.images.smallest), material.rows("val")
    truth = label_matrix([material.images[row] for row in validated], unknown=np.nan)[:, columns]
    logits, pooled = infer(network, material.pixels[validated], size)
    points = [calibrated(truth[:, k], logits[:, k]) for k in range(len(labels))]
    odds = [point.slope * logits[:, k] + point.intercept for k, point in enumerate(points)]
    chances, refused = 1 / (1 + np.exp(-np.stack(odds, axis=1))), gate.distance(pooled) > limit
    name = card_id(backbone)
    export_onnx(network, size, out / f"{name}.onnx")
    (out / f"{name}.gate.npz").write_bytes(gate.to_bytes())
    (out / f"{name}.boxes.npz").write_bytes(places.to_bytes())
    best = max(trained.history, key=lambda entry: entry["validation_auc"])
    licence, path = experiment.start.licence_of(backbone, "trunk"), out / f"{name}.toml"
    with changed_card(SHIPPED / f"{ID}.toml", path) as card:
        forget_detector(card)
        for weights in card["weights"]:
            weights.update(weights_row(weights["role"], out / weights["file"].replace(ID, name)))
        if backbone != NAME or licence != StartWeights().licence_of(NAME, "trunk"):
            card.update({"id": name, "architecture": backbone, "licence": licence})
        if backbone != NAME:
            card["version"] = "1"
        card["input"]["size"] = size
        card["input"]["chain"].update(asdict(experiment.images.chain))
        card["gate"].update({"threshold": round(limit, 6), "true_positive_rate": TRUE_POSITIVE_RATE})
        rows = [row for row in card["labels"] if row["name"] in labels]
        for row, point in zip(rows, points, strict=True):
            row.update({**point.rounded(), "supported": False})
        if len(rows) < len(card["labels"]):
            card["labels"] = tomlkit.aot()
            card["labels"].extend(rows)
        card["calibration"] = {
            "calibrated": True,
            "method": "Platt scaling of each label on the adults of the validation split",
            "thresholds": THRESHOLDS,
            "prevalence": prevalence(truth, labels),
        }
        card["reference"] = reference("the adults of the validation split", labels, chances, refused)
        card["training"] = {
            "data": [found.title, *found.notes],
            "images": len(learned),
            "patients": len({material.images[row].patient for row in learned}),
            "chosen_iteration": int(best["iteration"]),
            "validation_auc_within_sources": round(best["validation_auc"], 4),
            "validation_images": len(validated),
            "start": experiment.start.described(backbone),
            "experiment": experiment.described(),
        }
        if found.name != SHIPPED_SET:  # task and limits of a network that another set has taught
            card["task"] = f"findings in frontal chest X-rays of adults: {', '.join(labels)}"
            kept = [text for text in card["limits"] if not any(words in text for words in TOLD_OF_SHIPPED)]
            unknown = "its labels may be wrong; other devices, populations and windows were not tested."
            kept.append(f"Taught by {found.title}: {unknown}")
            card["limits"] = tomlkit.item(kept).multiline(True)
        card["metrics"] = {}
        card.pop("operating_points", None)
    return path
