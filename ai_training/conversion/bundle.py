"""Export and import a model as a bundle of MONAI: configs/, models/, docs/ and LICENSE in one folder.

Export: the network as ONNX, the model's own card and other files beside it, and a configuration that ``python
-m monai.bundle run`` runs. Import: an exported bundle; or a foreign bundle whose network is there as ONNX and
whose metadata describe its input and outputs. No configuration of a foreign bundle is run.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from ai_pipeline.errors import CardError
from ai_pipeline.models.card import Card
from ai_pipeline.models.engine import ONNX
from ai_pipeline.models.registry import load
from ai_pipeline.models.store import sandbox
from ai_training.conversion import label_map as label_maps
from ai_training.conversion.label_map import LabelMap
from ai_training.conversion.messages import ConvertedNetwork
from ai_training.conversion.template import written

METADATA, INFERENCE = Path("configs/metadata.json"), Path("configs/inference.json")
NETWORK, CARD = Path("models/model.onnx"), Path("models/card.toml")
SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"
TESTED = {"monai": "1.6.1", "torch": "2.6.0", "numpy": "2.0.0"}
"""Versions that the metadata name where the package is not installed here."""
LARGEST = 1 << 20  # bytes of a file of settings
SECONDS = 300
_WITHOUT_EFFECT = frozenset({"LoadImage", "EnsureChannelFirst", "EnsureType", "Resize", "ToTensor"})
"""Transforms of MONAI that a card's own preprocessing does as well."""
Text = Annotated[str, Field(min_length=1)]


class _BundlePart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")


class BundleTensor(_BundlePart):
    """An input or output tensor; ``channel_def``: the meaning of its channels, by number."""

    type: str
    format: str
    num_channels: Annotated[int, Field(ge=1, le=4096)]
    spatial_shape: tuple[int | str, ...]
    dtype: str
    value_range: tuple[float, ...]
    channel_def: dict[str, str] = {}


class DataFormat(_BundlePart):
    """The tensors by name, in their order."""

    inputs: Annotated[dict[str, BundleTensor], Field(min_length=1)]
    outputs: Annotated[dict[str, BundleTensor], Field(min_length=1)]


class BundleMetadata(_BundlePart):
    """The fields that MONAI's schema of 2024-07-25 requires in ``metadata.json``."""

    schema_: Annotated[Text, Field(alias="schema")]
    version: Text
    monai_version: Text
    pytorch_version: Text
    numpy_version: Text
    required_packages_version: dict[str, str]
    task: Text
    description: str
    authors: str
    copyright: str
    network_data_format: DataFormat
    name: str = ""


def write(card: Card, out: Path) -> Path:
    """Write the bundle of ``card`` into the new folder ``out``. Raises CardError if a bundle cannot hold the
    model.
    """
    if not card.weights or card.weights[0].path.suffix != ONNX or card.input is None or not card.labels:
        raise CardError(f"{card.name} cannot be bundled: a bundle is of a classifier as ONNX with labels")
    if out.exists():
        raise CardError(f"{out} exists: name a new folder")
    metadata = _metadata(card)
    BundleMetadata.model_validate(metadata)
    for folder in ("configs", "models", "docs"):
        (out / folder).mkdir(parents=True)
    network, *others = card.weights
    shutil.copyfile(network.path, out / NETWORK)
    for weights in others:
        shutil.copyfile(weights.path, out / "models" / weights.path.name)
    text = card.path.read_text(encoding="utf-8").replace(f'"{network.path.name}"', f'"{NETWORK.name}"')
    (out / CARD).write_text(text, encoding="utf-8")
    (out / METADATA).write_text(json.dumps(metadata, indent=4), encoding="utf-8")
    (out / INFERENCE).write_text(json.dumps(_INFERENCE, indent=4), encoding="utf-8")
    (out / "LICENSE").write_text(f"{card.licence}\n", encoding="utf-8")
    (out / "docs/README.md").write_text(_readme(card), encoding="utf-8")
    load(out / CARD)
    return out


def read(
    folder: Path,
    out: Path,
    *,
    label_map: LabelMap | None = None,
    licence: str = "",
    model_id: str = "",
    version: str = "1",
) -> Path:
    """Write the network of a bundle of others and a first card of it into ``out``; returns the card.

    Raises CardError.
    """
    metadata = _settings(folder / METADATA, BundleMetadata)
    network = folder / NETWORK
    if not network.is_file():
        raise CardError(
            f"{folder.name} has no {NETWORK}: make it with MONAI's own `python -m monai.bundle onnx_export`"
        )
    if (folder / CARD).is_file():
        raise CardError(f"{folder.name} has its card: `ai-pipeline models add {NETWORK} --card {CARD}` there")
    facts = _facts(folder, metadata)
    if label_map is None:
        label_maps.refuse_placeholders(facts["labels"])
    else:
        label_maps.check(label_map, facts["labels"])
        if None in label_map.values():
            raise CardError("of a bundle no label can be left out: its network answers as it does")
    answer = ConvertedNetwork.model_validate({**facts, "difference": 0.0})
    with tempfile.TemporaryDirectory(prefix="ai-pipeline-") as scratch:
        data = _renamed(network, Path(scratch)).read_bytes()
    return written(
        out, data, answer, model_id=model_id, version=version, licence=licence, label_map=label_map
    )


def _metadata(card: Card) -> dict[str, JsonValue]:
    assert card.input is not None
    mean, scale = card.input.mean[0], card.input.scale[0]
    low, high = (round((grey - mean) / scale, 4) for grey in (0.0, 255.0))
    probabilities = card.outputs.kind == "probabilities"
    side: JsonValue = [card.input.size, card.input.size]
    picture: dict[str, JsonValue] = {
        "type": "image",
        "format": "magnitude",
        "num_channels": card.input.channels,
        "spatial_shape": side,
        "dtype": "float32",
        "value_range": [low, high],
        "is_patch_data": False,
        "channel_def": {str(channel): "image" for channel in range(card.input.channels)},
    }
    scores: dict[str, JsonValue] = {
        "type": card.outputs.kind,
        "format": "classes",
        "num_channels": len(card.labels),
        "spatial_shape": [],
        "dtype": "float32",
        "value_range": [0, 1] if probabilities else [],
        "is_patch_data": False,
        "channel_def": {str(index): label.name for index, label in enumerate(card.labels)},
    }
    return {
        "schema": SCHEMA,
        "version": card.version,
        "changelog": {card.version: "exported by `ai-pipeline models bundle`"},
        "monai_version": _installed("monai"),
        "pytorch_version": _installed("torch"),
        "numpy_version": _installed("numpy"),
        "required_packages_version": {name: _installed(name) for name in ("onnxruntime", "dicom-ai-node")},
        "name": card.id,
        "task": card.task,
        "description": f"{card.architecture}. {' '.join(card.limits)}",
        "authors": "see models/card.toml",
        "copyright": card.licence,
        "intended_use": card.intended_use,
        "data_type": "dicom",
        "network_data_format": {"inputs": {"image": picture}, "outputs": {card.outputs.scores: scores}},
    }


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return TESTED.get(package, "not installed")


# Grey pictures become the network's input by the card, as at run time: MONAI has no transform for all of it.
_INFERENCE: Mapping[str, JsonValue] = {
    "imports": [
        "$import json",
        "$from pathlib import Path",
        "$import numpy",
        "$import onnxruntime",
        "$from ai_pipeline.models.inputs import network_input",
        "$from ai_pipeline.models.registry import load",
    ],
    "bundle_root": ".",
    "images": "$sorted(str(path) for path in Path(@bundle_root + '/images').glob('*.png'))",
    "output_file": "$@bundle_root + '/predictions.json'",
    "card": f"$load(Path(@bundle_root + '/{CARD}'))",
    "network_def": f"$onnxruntime.InferenceSession(@bundle_root + '/{NETWORK}', "
    "providers=['CPUExecutionProvider'])",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {
                "_target_": "LoadImage",
                "reader": "PILReader",
                "image_only": True,
                "dtype": "$numpy.uint8",
                "converter": "$lambda image: image.convert('L')",
                "reverse_indexing": False,
            },
            {
                "_target_": "Lambda",
                "func": "$lambda image: network_input(numpy.asarray(image), @card.input)[0]",
            },
        ],
    },
    "inferer": "$lambda image: @network_def.run([@card.outputs.scores], "
    "{@network_def.get_inputs()[0].name: numpy.asarray(image)})[0][0]",
    "predictions": "$[dict(zip([label.name for label in @card.labels], "
    "@inferer(@preprocessing(image)).tolist())) for image in @images]",
    "run": ["$Path(@output_file).write_text(json.dumps(dict(zip(@images, @predictions)), indent=1))"],
}


def _readme(card: Card) -> str:
    labels = ", ".join(label.name for label in card.labels)
    limits = "\n".join(f"* {limit}" for limit in card.limits)
    return f"""# {card.id} {card.version}

{card.task}. {card.intended_use}

Labels, in the order of the output `{card.outputs.scores}` ({card.outputs.kind}): {labels}.

{limits}

Put pictures as PNG into `images/` and run `python -m monai.bundle run --config_file {INFERENCE}
--bundle_root .`; it writes `predictions.json`. The preprocessing is that of the package dicom-ai-node, as
`models/card.toml` describes it. In a node: `ai-pipeline models add models/model.onnx --card
models/card.toml`.
"""


_Kind = TypeVar("_Kind", bound=BaseModel)


def _settings(path: Path, kind: type[_Kind]) -> _Kind:
    try:
        if path.stat().st_size > LARGEST:
            raise CardError(f"{path.name} is larger than {LARGEST >> 20} MiB: that is no file of settings")
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise CardError(f"{path.name} is missing: take the whole bundle") from error
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'the file'}: {one['msg']}" for one in error.errors()[:6]
        )
        raise CardError(f"{path.name} is not as MONAI's schema says: {wrong}") from error


class _Inference(_BundlePart):
    preprocessing: JsonValue = None


def _facts(folder: Path, metadata: BundleMetadata) -> dict[str, Any]:
    """What a card says of the network of others. Raises CardError for what no card can say."""
    (picture, *more), (scores, *_) = (
        list(part.values())
        for part in (metadata.network_data_format.inputs, metadata.network_data_format.outputs)
    )
    shape = picture.spatial_shape
    if more or len(shape) != 2 or shape[0] != shape[1] or not isinstance(shape[0], int):
        raise CardError(f"{METADATA.name}: the network must take one square picture of a size, not {shape}")
    if len(picture.value_range) != 2 or picture.value_range[0] >= picture.value_range[1]:
        raise CardError(f"{METADATA.name}: value_range of the input must be its smallest and largest value")
    labels = tuple(scores.channel_def.get(str(index), "") for index in range(scores.num_channels))
    if not all(labels):
        raise CardError(f"{METADATA.name}: channel_def must name each of the {len(labels)} outputs")
    for step in _transforms(_settings(folder / INFERENCE, _Inference).preprocessing):
        if step not in _WITHOUT_EFFECT and not step.startswith("ScaleIntensityRange"):
            raise CardError(f"{INFERENCE.name}: no card can say what {step} does: write a card of your own")
    low, high = picture.value_range
    scale = 255.0 / (high - low)
    return {
        "outputs": ("logits",),
        "id": label_maps.plain(metadata.name or folder.name).replace(" ", "-")[:64] or "bundle",
        "architecture": "of a MONAI bundle",
        "labels": labels,
        "channels": picture.num_channels,
        "size": shape[0],
        "mean": (-low * scale,),
        "scale": (scale,),
        "crop": 1.0,
        "squash": True,
        "interpolation": "bilinear",
        "kind": "probabilities" if scores.type == "probabilities" else "logits",
        "licence": metadata.copyright[:400],
    }


def _transforms(preprocessing: JsonValue) -> list[str]:
    """Names of the transforms, without MONAI's ``d`` for those on dictionaries."""
    steps = preprocessing.get("transforms") if isinstance(preprocessing, dict) else None
    if not isinstance(steps, list):
        raise CardError(f"{INFERENCE.name} has no list preprocessing.transforms to go by: write a card")
    names = [str(step.get("_target_", "?")) if isinstance(step, dict) else str(step) for step in steps]
    return [name.rpartition(".")[2].removesuffix("d") for name in names]


def _renamed(network: Path, scratch: Path) -> Path:
    """A copy of ``network`` that takes ``images`` as rows and columns and answers ``logits``."""
    ended = sandbox.run(
        "ai_training.conversion.bundle_process",
        json.dumps(str(network.resolve())),
        scratch,
        reads=[network.resolve(), Path(__file__).parents[1]],
        seconds=SECONDS,
    )
    made = scratch / NETWORK.name
    if ended.status != 0 or not made.is_file() or made.is_symlink():
        raise CardError(f"{NETWORK} cannot be read: {ended.line}")
    return made
