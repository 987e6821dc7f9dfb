"""Folders as Hugging Face's transformers saves them: full-size networks with random weights of a fixed
seed.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
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

Arrays = dict[str, np.ndarray]


def picture() -> np.ndarray:
    """A picture with structure at every scale, wider than high."""
    rows, columns = np.mgrid[0:300, 0:400]
    waves = np.sin(rows / 17.0) * np.cos(columns / 11.0) + np.sin((rows + 2 * columns) / 97.0)
    return np.asarray(np.clip((waves + 2) * 64, 0, 255), np.uint8)


def vit(folder: Path, *, width: int = WIDTH, depth: int = DEPTH) -> Path:
    """ViTForImageClassification, 224 pixels, squashed."""
    return _save(
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


def dinov2(folder: Path, size: int = 224) -> Path:
    """Dinov2Model, trained at 518 pixels, used at ``size``."""
    return _save(
        folder,
        {
            "architectures": ["Dinov2Model"],
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
        _parameters("dinov2", side=37, patch=14, labels=0),
    )


def _save(folder: Path, config: dict[str, Any], taken: dict[str, Any], arrays: Arrays) -> Path:
    folder.mkdir(parents=True)
    for name, settings in (("config", config), ("preprocessor_config", taken)):
        (folder / f"{name}.json").write_text(json.dumps(settings))
    save_file(arrays, folder / "model.safetensors")
    return folder


Row = tuple[str, tuple[int, ...], float, float]
"""Of a parameter: name, shape, spread, mean."""


def _parameters(
    kind: str, *, side: int, patch: int, labels: int, width: int = WIDTH, depth: int = DEPTH
) -> Arrays:
    """By transformers' names, in transformers' order."""
    random, prefix = np.random.default_rng(7), f"{kind}." if labels else ""

    def linear(name: str, rows: int, columns: int, scale: float = 0.05) -> list[Row]:
        return [(f"{name}.weight", (rows, columns), scale, 0.0), (f"{name}.bias", (rows,), 0.02, 0.0)]

    def norm(name: str) -> list[Row]:
        return [(f"{name}.weight", (width,), 0.02, 1.0), (f"{name}.bias", (width,), 0.02, 0.0)]

    def layer(name: str) -> list[Row]:
        names = [f"attention.{part}" for part in ("query", "key", "value")] + ["output.dense"]
        attention = [row for part in names for row in linear(f"{name}.attention.{part}", width, width)]
        if kind == "vit":
            wide = linear(f"{name}.intermediate.dense", 4 * width, width)
            narrow = linear(f"{name}.output.dense", width, 4 * width)
            return (
                attention + wide + narrow + norm(f"{name}.layernorm_before") + norm(f"{name}.layernorm_after")
            )
        scales: list[Row] = [(f"{name}.layer_scale{n}.lambda1", (width,), 0.02, 0.7) for n in (1, 2)]
        dense = linear(f"{name}.mlp.fc1", 4 * width, width) + linear(f"{name}.mlp.fc2", width, 4 * width)
        return attention + norm(f"{name}.norm1") + norm(f"{name}.norm2") + scales + dense

    first = f"{prefix}embeddings"
    rows: list[Row] = [
        (f"{first}.cls_token", (1, 1, width), 1.0, 0.0),
        *([(f"{first}.mask_token", (1, width), 0.02, 0.0)] if kind == "dinov2" else []),
        (f"{first}.position_embeddings", (1, 1 + side**2, width), 0.5, 0.0),
        (f"{first}.patch_embeddings.projection.weight", (width, 3, patch, patch), 0.05, 0.0),
        (f"{first}.patch_embeddings.projection.bias", (width,), 0.02, 0.0),
        *(row for number in range(depth) for row in layer(f"{prefix}encoder.layer.{number}")),
        *norm(f"{prefix}layernorm"),
        *(linear("classifier", labels, width, 0.1) if labels else []),
    ]
    return {
        name: around + scale * random.standard_normal(shape, np.float32)
        for name, shape, scale, around in rows
    }
