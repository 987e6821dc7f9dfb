"""Folders as Hugging Face's transformers saves them: full-size networks with random weights of a fixed
seed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

WIDTH, DEPTH, HEADS = 384, 12, 6  # ViT-S
LABELS = ("Pleural Effusion", "Enlarged heart", "No Finding", "Pneumoperitoneum", "Pneumothorax")
MAP = """\
"Pleural Effusion" = "Effusion"
"Enlarged heart" = "Cardiomegaly"
"No Finding" = ""
Pneumothorax = "Pneumothorax"
[Pneumoperitoneum]
name = "Free air"
code = { value = "48661000", scheme = "SCT", meaning = "Pneumoperitoneum" }
"""

Arrays = dict[str, npt.NDArray[np.float32]]


def picture() -> npt.NDArray[np.uint8]:
    """A picture with structure at every scale, wider than high."""
    rows, columns = np.mgrid[0:300, 0:400]
    waves = np.sin(rows / 17.0) * np.cos(columns / 11.0) + np.sin((rows + 2 * columns) / 97.0)
    return np.asarray(np.clip((waves + 2) * 64, 0, 255), np.uint8)


def vit(folder: Path, *, width: int = WIDTH, depth: int = DEPTH) -> Path:
    """ViTForImageClassification, 224 pixels, squashed."""
    _save(
        folder,
        {
            "architectures": ["ViTForImageClassification"],
            "model_type": "vit",
            "hidden_act": "gelu",
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": HEADS,
            "intermediate_size": 4 * width,
            "image_size": 224,
            "patch_size": 16,
            "num_channels": 3,
            "layer_norm_eps": 1e-12,
            "qkv_bias": True,
            "problem_type": "multi_label_classification",
            "id2label": {str(number): name for number, name in enumerate(LABELS)},
        },
        {
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": 224, "width": 224},
            "resample": 2,
            "do_resize": True,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
        _parameters("vit", side=14, patch=16, labels=len(LABELS), width=width, depth=depth),
    )
    return folder


def dinov2(folder: Path, *, labels: int = 2, size: int = 224) -> Path:
    """Dinov2ForImageClassification of two labels that exclude one another, or with ``labels=0`` Dinov2Model;
    trained at 518 pixels, used at ``size``."""
    kind = "Dinov2ForImageClassification" if labels else "Dinov2Model"
    _save(
        folder,
        {
            "architectures": [kind],
            "model_type": "dinov2",
            "hidden_act": "gelu",
            "hidden_size": WIDTH,
            "num_hidden_layers": DEPTH,
            "num_attention_heads": HEADS,
            "mlp_ratio": 4,
            "image_size": 518,
            "patch_size": 14,
            "num_channels": 3,
            "layer_norm_eps": 1e-6,
            "qkv_bias": True,
            "use_swiglu_ffn": False,
            "problem_type": "single_label_classification",
            "id2label": {"0": "Effusion", "1": "Pneumothorax"},
        },
        {
            "image_processor_type": "BitImageProcessor",
            "size": {"shortest_edge": size + 32},
            "resample": 3,
            "do_resize": True,
            "do_center_crop": True,
            "crop_size": {"height": size, "width": size},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5307, 0.5307, 0.5307],
            "image_std": [0.2583, 0.2583, 0.2583],
        },
        _parameters("dinov2", side=37, patch=14, labels=labels),
    )
    return folder


def change(folder: Path, name: str, **values: Any) -> None:
    """Change settings in a file of the folder; None takes one out."""
    path = folder / name
    settings = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))


def _save(folder: Path, config: dict[str, Any], taken: dict[str, Any] | None, arrays: Arrays) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if taken is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(taken))
    save_file(arrays, folder / "model.safetensors")


def _parameters(
    kind: str, *, side: int, patch: int, labels: int, width: int = WIDTH, depth: int = DEPTH
) -> Arrays:
    """By transformers' names, in transformers' order."""
    random = np.random.default_rng(7)
    prefix = f"{kind}." if labels else ""
    made: Arrays = {}

    def normal(name: str, *shape: int, scale: float = 0.02, around: float = 0.0) -> None:
        made[name] = around + scale * random.standard_normal(shape, np.float32)

    def linear(name: str, rows: int, columns: int, scale: float = 0.05) -> None:
        normal(f"{name}.weight", rows, columns, scale=scale)
        normal(f"{name}.bias", rows)

    def norm(name: str) -> None:
        normal(f"{name}.weight", width, around=1.0)
        normal(f"{name}.bias", width)

    normal(f"{prefix}embeddings.cls_token", 1, 1, width, scale=1.0)
    if kind == "dinov2":
        normal(f"{prefix}embeddings.mask_token", 1, width)
    normal(f"{prefix}embeddings.position_embeddings", 1, 1 + side**2, width, scale=0.5)
    normal(f"{prefix}embeddings.patch_embeddings.projection.weight", width, 3, patch, patch, scale=0.05)
    normal(f"{prefix}embeddings.patch_embeddings.projection.bias", width)
    for number in range(depth):
        layer = f"{prefix}encoder.layer.{number}"
        for part in ("query", "key", "value"):
            linear(f"{layer}.attention.attention.{part}", width, width)
        linear(f"{layer}.attention.output.dense", width, width)
        if kind == "vit":
            linear(f"{layer}.intermediate.dense", 4 * width, width)
            linear(f"{layer}.output.dense", width, 4 * width)
            norm(f"{layer}.layernorm_before")
            norm(f"{layer}.layernorm_after")
        else:
            norm(f"{layer}.norm1")
            norm(f"{layer}.norm2")
            normal(f"{layer}.layer_scale1.lambda1", width, around=0.7)
            normal(f"{layer}.layer_scale2.lambda1", width, around=0.7)
            linear(f"{layer}.mlp.fc1", 4 * width, width)
            linear(f"{layer}.mlp.fc2", width, 4 * width)
    norm(f"{prefix}layernorm")
    if labels:
        linear(
            "classifier", labels, width * (2 if kind == "dinov2" else 1), scale=0.1 if kind == "vit" else 0.02
        )
    return made


def network_input_of(adapted: Any, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """``image`` as the card of an adapted network would have it."""
    from ai_pipeline.models.card import Chain, Input
    from ai_pipeline.models.inputs import network_input

    wanted = Input(
        adapted.size,
        adapted.channels,
        adapted.mean,
        adapted.scale,
        "MONOCHROME2",
        Chain(),
        adapted.preprocess,
        adapted.crop,
        adapted.squash,
        adapted.interpolation,
    )
    return network_input(image, wanted)[0]
