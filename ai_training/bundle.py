"""Models as bundles of MONAI: a folder with configs/, models/, docs/ and LICENSE.

Out: the network as ONNX, the card and its other files beside it, and a configuration that ``python -m
monai.bundle run`` runs. In: a classifier of 2-D pictures, by MONAI's own reader: ``network_def`` of its
inference configuration names one of MONAI's networks with plain values, and ``models/model.pt`` holds its
parameters. No expression of a foreign bundle is run. A segmenter has no place in a pipeline of this project:
what is measured in outlines, and whether they may be shown, goes by limits that were fitted to one network.
"""

import json
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, JsonValue, ValidationError

from ai_pipeline.errors import CardError
from ai_pipeline.models.engine import ONNX
from ai_pipeline.models.registry import Card
from ai_training.base import CannotAdapt

METADATA, INFERENCE, LICENCE = Path("configs/metadata.json"), Path("configs/inference.json"), "LICENSE"
NETWORK, CARD, PARAMETERS = Path("models/model.onnx"), Path("models/card.toml"), Path("models/model.pt")
SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"
NETS = "monai.networks.nets"
KNOWN_STEPS = frozenset({"LoadImage", "EnsureChannelFirst", "EnsureType", "Resize", "ToTensor"})
"""Transforms of MONAI that a card's own preprocessing does as well."""


def write(card: Card, out: Path) -> Path:
    """Write the model of ``card`` as a bundle into the new folder ``out``; returns it. Raises CardError if a
    bundle cannot hold the model.
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
    (out / LICENCE).write_text(f"{card.licence}\n", encoding="utf-8")
    limits = "\n".join(f"* {limit}" for limit in card.limits)
    (out / "docs/README.md").write_text(
        f"# {card.name}\n\n{card.task}. {card.intended_use}\n\n{limits}\n\nPut pictures as PNG into "
        f"`images/` and run `python -m monai.bundle run --config_file {INFERENCE} --bundle_root .`, with the "
        "packages dicom-ai-node and fire beside MONAI: it writes `predictions.json`. In a node: `ai-pipeline "
        f"models add {NETWORK} --card {CARD}`.\n",
        encoding="utf-8",
    )
    return out


def _metadata(card: Card) -> dict[str, JsonValue]:
    """The content of ``metadata.json`` for ``card``, by MONAI's schema."""
    assert card.input is not None
    mean, scale = card.input.mean[0], card.input.scale[0]
    picture: dict[str, JsonValue] = {
        "type": "image",
        "format": "magnitude",
        "num_channels": card.input.channels,
        "spatial_shape": [card.input.size, card.input.size],
        "dtype": "float32",
        "value_range": [round((grey - mean) / scale, 4) for grey in (0.0, 255.0)],
        "is_patch_data": False,
        "channel_def": {str(channel): "image" for channel in range(card.input.channels)},
    }
    scores: dict[str, JsonValue] = {
        "type": card.outputs.kind,
        "format": "classes",
        "num_channels": len(card.labels),
        "spatial_shape": [],
        "dtype": "float32",
        "value_range": [0, 1] if card.outputs.kind == "probabilities" else [],
        "is_patch_data": False,
        "channel_def": {str(index): label.name for index, label in enumerate(card.labels)},
    }
    return {
        "schema": SCHEMA,
        "version": card.version,
        "changelog": {card.version: "exported by `ai-pipeline models bundle`"},
        "monai_version": "1.6.1",
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
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
        "$from ai_pipeline.models.registry import load",  # MONAI takes one name a line
        "$from ai_pipeline.models.registry import network_input",
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


class BundleTensor(BaseModel):
    """An input or output of a bundle's network; ``channel_def``: the meaning of its channels, by number."""

    type: str
    num_channels: Annotated[int, Field(ge=1, le=4096)]
    spatial_shape: tuple[int | str, ...]
    value_range: tuple[float, ...] = ()
    channel_def: dict[str, str] = {}


class DataFormat(BaseModel):
    """The tensors of a bundle's network by name, in their order."""

    inputs: Annotated[dict[str, BundleTensor], Field(min_length=1, max_length=1)]
    outputs: Annotated[dict[str, BundleTensor], Field(min_length=1)]


class BundleMetadata(BaseModel):
    """The fields of ``metadata.json`` that a card needs."""

    network_data_format: DataFormat
    name: str = ""


def read(folder: Path) -> tuple[Any, dict[str, Any]]:
    """Read the classifier of the bundle in ``folder``: the network in torch, ready for inference, whose
    ``forward`` takes pictures ``[N, C, rows, columns]`` and returns the scores, and what
    :class:`ai_training.convert.ConvertedNetwork` needs of it. Raises CannotAdapt, UnreadableCheckpoint.
    """
    if (folder / CARD).is_file() and (folder / NETWORK).is_file():
        raise CannotAdapt(
            f"`ai-pipeline models bundle` wrote it: add its {NETWORK} with --card {CARD} by "
            "`ai-pipeline models add`"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MONAI's own, at import
            from monai.bundle.config_parser import ConfigParser
    except ImportError as error:
        raise CannotAdapt(
            "a bundle is read by the package monai: pip install './ai_training[monai]'"
        ) from error
    inference = next((folder / "configs").glob("inference.*"), folder / INFERENCE)
    try:
        metadata = BundleMetadata.model_validate_json((folder / METADATA).read_bytes())
        config = ConfigParser.load_config_file(str(inference))
        steps = list(config["preprocessing"]["transforms"])
        definition = config["network_def"]
    except OSError as error:
        raise CannotAdapt(f"{error.filename} is missing: take the whole bundle") from error
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()[:6])
        raise CannotAdapt(f"{METADATA.name} is not as MONAI's schema says: {wrong}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CannotAdapt(f"{inference.name} has no preprocessing.transforms and network_def") from error
    for name in _targets(definition):
        if not name.startswith(NETS) and "." in name:
            raise CannotAdapt(f"network_def: only networks of {NETS} are built, not {name}")
    turned = _turned(steps, inference.name)
    values = _values(metadata)
    return _network(ConfigParser(config={"network_def": definition}), folder, values, turned), values


def _targets(definition: Any) -> Iterator[str]:
    """The classes that ``definition`` names. Raises CannotAdapt for anything but plain values."""
    if isinstance(definition, Mapping):
        for key, value in definition.items():
            if key == "_target_":
                yield str(value)
            yield from _targets(value)
    elif isinstance(definition, list):
        for value in definition:
            yield from _targets(value)
    elif isinstance(definition, str) and definition.startswith(("$", "@", "%")):
        raise CannotAdapt(f"network_def holds {definition[:80]!r}, which is to be run: write its value there")


def _turned(steps: Sequence[Any], name: str) -> bool:
    """Whether the network was taught pictures as columns × rows, as MONAI reads them unless it is told
    otherwise. Raises CannotAdapt for a transform that no card describes.
    """
    turned = True
    for step in steps:
        target = str(step["_target_"]).rpartition(".")[2].removesuffix("d")  # ``d``: for dictionaries
        if target not in KNOWN_STEPS and not target.startswith("ScaleIntensityRange"):
            raise CannotAdapt(f"{name}: no card can say what {target} does: write a card of your own")
        if target == "LoadImage" and step.get("reverse_indexing") is False:
            turned = False
    return turned


def _values(metadata: BundleMetadata) -> dict[str, Any]:
    """What a card says of the network that ``metadata`` describes. Raises CannotAdapt."""
    [picture] = metadata.network_data_format.inputs.values()
    scores = next(iter(metadata.network_data_format.outputs.values()))
    shape, (low, *_, high) = picture.spatial_shape, picture.value_range or (0.0, 0.0)
    if len(shape) != 2 or shape[0] != shape[1] or not isinstance(shape[0], int):
        raise CannotAdapt(f"{METADATA.name}: the network must take one square picture of a size, not {shape}")
    if low >= high:
        raise CannotAdapt(f"{METADATA.name}: value_range of the input must be its smallest and largest value")
    labels = tuple(scores.channel_def.get(str(index), "") for index in range(scores.num_channels))
    if not all(labels):
        raise CannotAdapt(f"{METADATA.name}: channel_def must name each of the {len(labels)} outputs")
    scale = 255.0 / (high - low)
    name = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in metadata.name)
    return {
        "outputs": ("logits",),
        "id": name.strip("-")[:64] or "bundle",
        "architecture": "of a MONAI bundle",
        "labels": labels,
        "channels": picture.num_channels,
        "size": shape[0],
        "mean": (-low * scale,),
        "scale": (scale,),
        "squash": True,
        "kind": "probabilities" if scores.type == "probabilities" else "logits",
    }


def _network(parser: Any, folder: Path, values: Mapping[str, Any], turned: bool) -> Any:
    """Build the network of ``parser`` with the parameters in ``folder``; ``turned``: it takes columns × rows.
    Raises CannotAdapt, UnreadableCheckpoint.
    """
    import torch
    from torch import Tensor, nn

    from ai_training.networks import fill, read_weights

    class Turned(nn.Module):
        """The network for pictures of rows × columns."""

        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> tuple[Tensor]:
            """The scores of ``images``."""
            return (self.network(images.transpose(2, 3) if turned else images),)

    try:
        network = parser.get_parsed_content("network_def")
    except Exception as error:  # whatever the arguments of any network raise
        raise CannotAdapt(f"network_def cannot be built: {' '.join(str(error).split())[:200]}") from error
    fill(network, read_weights(folder / PARAMETERS), type(network).__name__, file=PARAMETERS.name)
    made = Turned(network).eval()
    with torch.inference_mode():
        [scores] = made(torch.zeros(1, values["channels"], values["size"], values["size"]))
    if scores.shape != (1, len(values["labels"])):
        raise CannotAdapt(
            f"the network answers {tuple(scores.shape)} for one picture, not one score for each of "
            f"{len(values['labels'])} labels: a segmenter has no place in a pipeline here ("
            "docs/models-convert.md says why, and what takes one)"
        )
    return made
