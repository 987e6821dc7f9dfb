"""Export and import a model as a bundle of MONAI: configs/, models/, docs/ and LICENSE in one folder.

Export: the network as ONNX, the model's own card and other files beside it, and a configuration that ``python
-m monai.bundle run`` runs. Import: an exported bundle; or a foreign bundle whose network is there as ONNX and
whose metadata describe its input and outputs. No configuration of a foreign bundle is run.
"""

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, JsonValue, ValidationError

from ai_pipeline.errors import CardError
from ai_pipeline.models.engine import ONNX
from ai_pipeline.models.registry import Card
from ai_pipeline.models.store.formats import check
from ai_training.base import CannotAdapt
from ai_training.conversion.first_card import plain
from ai_training.conversion.messages import NetworkFacts, Request

METADATA, INFERENCE = Path("configs/metadata.json"), Path("configs/inference.json")
NETWORK, CARD = Path("models/model.onnx"), Path("models/card.toml")
_WITHOUT_EFFECT = frozenset({"LoadImage", "EnsureChannelFirst", "EnsureType", "Resize", "ToTensor"})
"""Transforms of MONAI that a card's own preprocessing does as well."""


class BundleTensor(BaseModel):
    """An input or output tensor of a bundle; ``channel_def``: the meaning of its channels, by number."""

    type: str
    num_channels: Annotated[int, Field(ge=1, le=4096)]
    spatial_shape: tuple[int | str, ...]
    value_range: tuple[float, ...]
    channel_def: dict[str, str] = {}


class DataFormat(BaseModel):
    """The tensors by name, in their order."""

    inputs: Annotated[dict[str, BundleTensor], Field(min_length=1)]
    outputs: Annotated[dict[str, BundleTensor], Field(min_length=1)]


class BundleMetadata(BaseModel):
    """The fields of ``metadata.json`` (MONAI's schema of 2024-07-25) that a card needs."""

    network_data_format: DataFormat
    copyright: str
    name: str = ""


def write(card: Card, out: Path) -> Path:
    """Write the bundle of ``card`` into the new folder ``out``. Raises CardError if a bundle cannot hold the
    model.
    """
    if not card.weights or card.weights[0].path.suffix != ONNX or card.input is None or not card.labels:
        raise CardError(f"{card.name} cannot be bundled: a bundle is of a classifier as ONNX with labels")
    if out.exists():
        raise CardError(f"{out} exists: name a new folder")
    for folder in ("configs", "models", "docs"):
        (out / folder).mkdir(parents=True)
    network, *others = card.weights
    shutil.copyfile(network.path, out / NETWORK)
    for weights in others:
        shutil.copyfile(weights.path, out / "models" / weights.path.name)
    text = card.path.read_text(encoding="utf-8").replace(f'"{network.path.name}"', f'"{NETWORK.name}"')
    (out / CARD).write_text(text, encoding="utf-8")
    (out / METADATA).write_text(json.dumps(_metadata(card), indent=4), encoding="utf-8")
    (out / INFERENCE).write_text(json.dumps(_INFERENCE, indent=4), encoding="utf-8")
    (out / "LICENSE").write_text(f"{card.licence}\n", encoding="utf-8")
    (out / "docs/README.md").write_text(_readme(card), encoding="utf-8")
    return out


def adapt(folder: Path, made: Path, request: Request) -> NetworkFacts:
    """Write the network of a bundle of others to ``made`` with other names and with the sides of its input
    exchanged: MONAI reads pictures as columns × rows. Returns its facts. Raises CannotAdapt, CardError.
    """
    import onnx
    from onnx import TensorProto, helper

    network = folder / NETWORK
    if not network.is_file():
        raise CannotAdapt(
            f"{folder.name} has no {NETWORK}: make it with MONAI's own `python -m monai.bundle onnx_export`"
        )
    if (folder / CARD).is_file():
        raise CannotAdapt(
            f"{folder.name} has its card: `ai-pipeline models add {NETWORK} --card {CARD}` there"
        )
    if request.leave_out:
        raise CannotAdapt("of a bundle no label can be left out: its network answers as it does")
    facts = _facts(folder)
    check(network)
    model = onnx.load(str(network))
    graph = model.graph
    held = {one.name for one in graph.initializer}
    inputs = [one for one in graph.input if one.name not in held]
    if len(inputs) != 1:
        raise CannotAdapt(f"the network takes {len(inputs)} inputs, not one picture")
    taken, given = inputs[0], graph.output[0]
    for node in graph.node:  # free the names of the node's own input and output
        for names in (node.input, node.output):
            names[:] = [f"bundle.{name}" if name in {taken.name, given.name} else name for name in names]
    turned = helper.make_node("Transpose", ["images"], [f"bundle.{taken.name}"], perm=[0, 1, 3, 2])
    graph.node.insert(0, turned)
    graph.node.append(helper.make_node("Identity", [f"bundle.{given.name}"], ["logits"]))
    shapes = [[dim.dim_value or None for dim in one.type.tensor_type.shape.dim][1:] for one in (taken, given)]
    graph.input.remove(taken)
    del graph.output[:], graph.value_info[:]
    for part, name, shape in zip((graph.input, graph.output), ("images", "logits"), shapes, strict=True):
        part.insert(0, helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]))
    onnx.checker.check_model(model)
    made.write_bytes(model.SerializeToString(deterministic=True))
    return facts


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
        "schema": "https://project-monai.github.io/schema/meta_schema_20240725.json",
        "version": card.version,
        "changelog": {card.version: "exported by `ai-pipeline models bundle`"},
        **{
            f"{name}_version": tested
            for name, tested in {"monai": "1.6.1", "pytorch": "2.6.0", "numpy": "2.0.0"}.items()
        },
        "required_packages_version": {name: version(name) for name in ("onnxruntime", "dicom-ai-node")},
        "name": card.id,
        "task": card.task,
        "description": f"{card.architecture}. {' '.join(card.limits)}",
        "authors": "see models/card.toml",
        "copyright": card.licence,
        "intended_use": card.intended_use,
        "data_type": "dicom",
        "network_data_format": {"inputs": {"image": picture}, "outputs": {card.outputs.scores: scores}},
    }


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


def _facts(folder: Path) -> NetworkFacts:
    """What a card says of the network of others. Raises CannotAdapt for what no card can say."""
    try:
        metadata = BundleMetadata.model_validate_json((folder / METADATA).read_bytes())
        inference = json.loads((folder / INFERENCE).read_bytes())
        steps = [step["_target_"] for step in inference["preprocessing"]["transforms"]]
    except OSError as error:
        raise CannotAdapt(f"{error.filename} is missing: take the whole bundle") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:6])
        raise CannotAdapt(f"{METADATA.name} is not as MONAI's schema says: {wrong}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CannotAdapt(
            f"{INFERENCE.name} has no list preprocessing.transforms to go by: write a card"
        ) from error
    for step in steps:
        name = str(step).rpartition(".")[2].removesuffix("d")  # MONAI's ``d``: for dictionaries
        if name not in _WITHOUT_EFFECT and not name.startswith("ScaleIntensityRange"):
            raise CannotAdapt(f"{INFERENCE.name}: no card can say what {name} does: write a card of your own")
    (picture, *more), (scores, *_) = (
        list(part.values())
        for part in (metadata.network_data_format.inputs, metadata.network_data_format.outputs)
    )
    shape = picture.spatial_shape
    if more or len(shape) != 2 or shape[0] != shape[1] or not isinstance(shape[0], int):
        raise CannotAdapt(f"{METADATA.name}: the network must take one square picture of a size, not {shape}")
    if len(picture.value_range) != 2 or picture.value_range[0] >= picture.value_range[1]:
        raise CannotAdapt(f"{METADATA.name}: value_range of the input must be its smallest and largest value")
    labels = tuple(scores.channel_def.get(str(index), "") for index in range(scores.num_channels))
    if not all(labels):
        raise CannotAdapt(f"{METADATA.name}: channel_def must name each of the {len(labels)} outputs")
    low, high = picture.value_range
    scale = 255.0 / (high - low)
    return NetworkFacts(
        outputs=("logits",),
        id=plain(metadata.name or folder.name)[:64] or "bundle",
        architecture="of a MONAI bundle",
        labels=labels,
        channels=picture.num_channels,
        size=shape[0],
        mean=(-low * scale,),
        scale=(scale,),
        squash=True,
        kind="probabilities" if scores.type == "probabilities" else "logits",
        licence=metadata.copyright[:400],
    )
