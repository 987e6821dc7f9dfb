"""Networks whose authors fine-tuned them on NIH ChestX-ray14: EVA-X, and the DenseNet-121 of Medical MAE.

EVA-X (hustvl/EVA-X) is timm's ``Eva`` with rotary position embeddings; its files use the names of EVA-02.
Medical MAE (lambert-x/medical_mae) has torchvision's names. Both look at the middle square of 224 of 256
pixels.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ai_pipeline.errors import CannotAdapt
from ai_pipeline.networks import foreign
from ai_pipeline.networks.adapted import Adapted
from ai_pipeline.networks.checkpoints import read_state
from ai_pipeline.networks.conversion import Request
from ai_pipeline.networks.filling import fill

LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""In the order of the columns in the authors' lists of images."""
PATCH, DEPTH = 16, 12
EVA_X = {192: ("eva-x-tiny", 3), 384: ("eva-x-small", 6), 768: ("eva-x-base", 12)}
"""By the width of a token: name and heads."""
EVA_X_MEAN, EVA_X_SPREAD = 0.49185243, 0.28509309
MEDICAL_MAE_MEAN, MEDICAL_MAE_SPREAD = 0.5056, 0.252
_REFERENCES = (14, 16)
"""Sides of the grid that rotary places count in: eva_x.py says 14, the base network was fine-tuned with
16.
"""
_NAMES = (
    ("mlp.ffn_ln.", "mlp.norm."),
    ("attn.inner_attn_ln.", "attn.norm."),
    ("mlp.w12.", "mlp.fc1."),
    ("mlp.w1.", "mlp.fc1_g."),
    ("mlp.w2.", "mlp.fc1_x."),
    ("mlp.w3.", "mlp.fc2."),
)


class EvaX(nn.Module):
    """timm's ``Eva``, which returns the tokens of the patches beside the logits."""

    outputs = ("logits", "features")

    def __init__(self, network: Any, side: int) -> None:
        super().__init__()
        self.network, self.side = network, side

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.network.forward_features(images)
        features = tokens[:, 1:].transpose(1, 2).unflatten(2, (self.side, self.side))
        return self.network.forward_head(tokens), features


def eva_x(path: Path, described: Request) -> Adapted:
    """Read an EVA-X that was fine-tuned for findings. Raises CannotAdapt or UnreadableCheckpoint."""
    state = {re.sub(r"^module\.", "", name): value for name, value in read_state(path).items()}
    if "patch_embed.proj.weight" not in state or "pos_embed" not in state:
        raise CannotAdapt(f"{path.name} holds no EVA-X: it has no patch_embed.proj.weight and pos_embed")
    if "head.weight" not in state:
        raise CannotAdapt(
            f"{path.name} is the pre-trained encoder, which finds nothing: take a file fine-tuned for "
            "findings"
        )
    width = state["patch_embed.proj.weight"].shape[0]
    if width not in EVA_X:
        raise CannotAdapt(f"{path.name} has tokens of {width} numbers, EVA-X of {', '.join(map(str, EVA_X))}")
    side = round((state["pos_embed"].shape[1] - 1) ** 0.5)
    name, heads = EVA_X[width]
    labels = _labels(described, len(state["head.weight"]))
    separate = "blocks.0.attn.q_proj.weight" in state
    network = foreign.exportable_timm().eva.Eva(
        img_size=PATCH * side,
        patch_size=PATCH,
        embed_dim=width,
        depth=DEPTH,
        num_heads=heads,
        mlp_ratio=4 * 2 / 3,
        swiglu_mlp=True,
        use_rot_pos_emb=True,
        num_classes=len(labels),
        qkv_fused=not separate,
        scale_mlp="blocks.0.mlp.ffn_ln.weight" in state,
        ref_feat_shape=(_reference(state, side, width // heads),) * 2,
    )
    own = {_own_name(key, separate): value for key, value in state.items() if "rope" not in key}
    fill(network.eval(), own, name)
    return Adapted(
        network=EvaX(network, side),
        outputs=EvaX.outputs,
        id=name,
        architecture=name,
        labels=labels,
        channels=3,
        size=PATCH * side,
        mean=(255 * EVA_X_MEAN,),
        scale=(255 * EVA_X_SPREAD,),
        preprocess="imagenet",
        crop=224 / 256 if side <= 224 // PATCH else 1.0,
        interpolation="bicubic",
        licence="hustvl/EVA-X: MIT by its badge; the images it was trained on have terms of their own",
    )


def medical_mae(path: Path, described: Request) -> Adapted:
    """Read the DenseNet-121 of a fine-tuned Medical MAE. Raises CannotAdapt or UnreadableCheckpoint."""
    state = {re.sub(r"^module\.", "", name): value for name, value in read_state(path).items()}
    if "classifier.weight" not in state:
        raise CannotAdapt(
            f"{path.name} holds no DenseNet-121 with a classifier: take a file fine-tuned for findings, of "
            "densenet121"
        )
    labels = _labels(described, len(state["classifier.weight"]))
    network = foreign.densenet("densenet121", state, len(labels), 3)
    return Adapted(
        network=network,
        outputs=network.outputs,
        id="medical-mae-densenet121",
        architecture="densenet121",
        labels=labels,
        channels=3,
        size=224,
        mean=(255 * MEDICAL_MAE_MEAN,),
        scale=(255 * MEDICAL_MAE_SPREAD,),
        preprocess="imagenet",
        crop=224 / 256,
        interpolation="bicubic",
        licence="lambert-x/medical_mae; the images it was trained on have terms of their own",
    )


def _labels(described: Request, outputs: int) -> tuple[str, ...]:
    labels = described.labels or (LABELS if outputs == len(LABELS) else ())
    if len(labels) != outputs:
        raise CannotAdapt(f"the file has {outputs} outputs: name each of them, in order, with --labels")
    return labels


def _own_name(name: str, separate: bool) -> str:
    """timm's name for a parameter; ``separate``: query, key and value have matrices of their own."""
    for theirs, ours in _NAMES:
        name = name.replace(theirs, ours)
    return re.sub(r"\.([qv])_bias$", r".\1_proj.bias", name) if separate else name


def _reference(state: dict[str, Tensor], side: int, head: int) -> int:
    """The grid that the rotary places of the file count in, by its own table of cosines; 14 without one."""
    table = next((value for name, value in state.items() if name.endswith("rope.freqs_cos")), None)
    if table is None:
        return _REFERENCES[0]
    half = head // 2
    speeds = 10_000.0 ** (-torch.arange(0, half, 2) / half)
    for reference in _REFERENCES:
        angles = (torch.arange(side) / side * reference)[:, None] * speeds
        down = angles.repeat_interleave(2, 1)[:, None].expand(side, side, half)
        across = angles.repeat_interleave(2, 1)[None].expand(side, side, half)
        expected = torch.cat([down, across], 2).cos().reshape(-1, head)
        if table.shape == expected.shape and torch.allclose(table, expected, atol=1e-3):
            return reference
    raise CannotAdapt("the file's rotary places (rope.freqs_cos) are not those of EVA-X at this size")
