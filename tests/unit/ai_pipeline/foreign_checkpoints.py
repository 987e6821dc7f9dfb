"""Full-size checkpoints of other projects, and what those projects say with them: made by their own code.

A program of its own, ``python foreign_checkpoints.py KIND FOLDER``, because these libraries change warnings
at import. Random weights, a real network. It leaves ``checkpoint.*`` and ``expected.npz`` in the folder:
``image`` (what a viewer shows), ``input`` (the library's own preprocessing of it) and ``scores``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ai_pipeline.networks.foreign import offer_torchvision_operators


def image() -> Any:
    """A picture with structure at every scale, wider than high."""
    rows, columns = np.mgrid[0:700, 0:840]
    waves = np.sin(rows / 37.0) * np.cos(columns / 23.0) + np.sin((rows + 2 * columns) / 211.0)
    noise = np.random.default_rng(5).normal(0, 0.1, waves.shape)
    return np.clip((waves + noise + 2) * 64, 0, 255).astype(np.uint8)


def torchxrayvision(folder: Path) -> None:
    """A whole pickled network in the format of torch 1.4, as torchxrayvision's released weights are."""
    import torchxrayvision as xrv

    known = xrv.models.model_urls["densenet121-res224-all"]
    network = xrv.models.DenseNet(op_threshs=torch.tensor(known["op_threshs"])).eval()
    shown = image()
    pixels = xrv.datasets.normalize(shown, 255)[None]
    pixels = xrv.datasets.XRayResizer(224, engine="cv2")(xrv.datasets.XRayCenterCrop()(pixels))
    _spread(network.classifier, network.features2(torch.from_numpy(pixels)[None]))
    torch.save(network, folder / "checkpoint.pt", _use_new_zipfile_serialization=False)
    with torch.inference_mode():
        scores = network(torch.from_numpy(pixels)[None])
    _save(folder, shown, pixels[None], scores)


def timm(folder: Path) -> None:
    """A training script's dictionary around the parameters of timm's ResNet-18 with three outputs."""
    import timm
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    network = timm.create_model("resnet18", pretrained=False, num_classes=3).eval()
    shown = image()
    transform = create_transform(**resolve_data_config({}, model=network))
    pixels = transform(Image.fromarray(shown).convert("RGB"))[None]
    _spread(network.get_classifier(), network.forward_head(network.forward_features(pixels), pre_logits=True))
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 3, "args": {"lr": 0.1}, "state_dict": state}, folder / "checkpoint.pth")
    with torch.inference_mode():
        scores = network(pixels)
    _save(folder, shown, pixels.numpy(), scores)


def chexnet(folder: Path) -> None:
    """torchvision's DenseNet-121 as copies of CheXNet save it: old names, Sequential(Linear, Sigmoid)."""
    from torchvision import models

    network = models.densenet121(weights=None, num_classes=14).eval()
    pixels = torch.randn(1, 3, 224, 224)
    _spread(network.classifier, network.features(pixels).relu().mean((2, 3)))
    state = {
        "module.densenet121."
        + name.replace("norm1", "norm.1")
        .replace("norm2", "norm.2")
        .replace("conv1", "conv.1")
        .replace("conv2", "conv.2")
        .replace("classifier.", "classifier.0."): value
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    torch.save({"state_dict": state}, folder / "checkpoint.pth.tar")
    with torch.inference_mode():
        scores = network(pixels)
    _save(folder, image(), pixels.numpy(), scores)


LAYERS_OF_BASE = 3
"""Of its twelve, which are all alike: 86 million parameters would take the test half a minute."""


def eva_x(folder: Path) -> None:
    """EVA-X-Ti as its authors fine-tune it: timm's Eva with what eva_x.py gives it, by the names of
    EVA-02.
    """
    _eva_x(
        folder,
        {"embed_dim": 192, "num_heads": 3, "depth": 12},
        (("mlp.fc1", "mlp.w12"), ("mlp.fc2", "mlp.w3")),
        14,
    )


def eva_x_base(folder: Path) -> None:
    """The first layers of EVA-X-B: query, key and value apart, a norm in each perceptron; its rotary places
    count
    16 a side."""
    names = (
        ("mlp.fc1_g", "mlp.w1"),
        ("mlp.fc1_x", "mlp.w2"),
        ("mlp.fc2", "mlp.w3"),
        ("mlp.norm", "mlp.ffn_ln"),
        ("q_proj.bias", "q_bias"),
        ("v_proj.bias", "v_bias"),
    )
    shape = {
        "embed_dim": 768,
        "num_heads": 12,
        "depth": LAYERS_OF_BASE,
        "qkv_fused": False,
        "scale_mlp": True,
    }
    _eva_x(folder, shape, names, 16)


def _eva_x(folder: Path, shape: dict[str, Any], names: tuple[tuple[str, str], ...], side: int) -> None:
    from timm.models.eva import Eva

    network = Eva(
        img_size=224,
        patch_size=16,
        mlp_ratio=4 * 2 / 3,
        swiglu_mlp=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(side, side),
        num_classes=14,
        **shape,
    ).eval()
    random = np.random.default_rng(8)
    for name, value in network.named_parameters():
        scale = 0.5 if name == "pos_embed" else 0.05
        around = float("norm" in name and name.endswith("weight"))
        value.data = torch.from_numpy(around + scale * random.standard_normal(value.shape, np.float32))
    pixels = _official_input(0.49185243, 0.28509309)
    _spread(network.head, network.forward_head(network.forward_features(pixels), pre_logits=True))
    state = {}
    for own, value in network.state_dict().items():
        theirs = own
        for ours, eva in names:
            theirs = theirs.replace(ours, eva)
        state[theirs] = value
    head = shape["embed_dim"] // shape["num_heads"]
    cosines = network.rope.get_embed()[:, head:]  # beside the sines
    state |= {"rope.freqs_cos": cosines, "blocks.0.attn.rope.freqs_cos": cosines}
    torch.save({"model": state, "epoch": 3, "args": {"lr": 0.1}}, folder / "checkpoint.pth")
    with torch.inference_mode():
        scores = network(pixels)
    _save(folder, image(), pixels.numpy(), scores)


def medical_mae(folder: Path) -> None:
    """torchvision's DenseNet-121 as Medical MAE saves it after fine-tuning on NIH's 14 labels."""
    from torchvision import models

    network = models.densenet121(num_classes=14).eval()
    pixels = _official_input(0.5056, 0.252)
    _spread(network.classifier, network.features(pixels).relu().mean((2, 3)))
    torch.save({"model": network.state_dict(), "epoch": 74}, folder / "checkpoint.pth")
    with torch.inference_mode():
        scores = network(pixels)
    _save(folder, image(), pixels.numpy(), scores)


def _official_input(mean: float, spread: float) -> torch.Tensor:
    """The transform of both repositories' ``build_transform`` for evaluation."""
    from PIL import Image
    from torchvision import transforms

    steps = [
        transforms.Resize(256, interpolation=transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize([mean] * 3, [spread] * 3),
    ]
    return transforms.Compose(steps)(Image.fromarray(image()).convert("RGB"))[None]


def ultralytics(folder: Path) -> None:
    """A YOLO11 classifier of ten pictures and two labels, as Ultralytics leaves it after one epoch."""
    import cv2
    from PIL import Image

    random = np.random.default_rng(6)
    for number in range(10):
        own = folder / "set" / "train" / ("dark", "light")[number % 2]
        own.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(own / f"{number}.png"), random.integers(0, 90, (64, 64, 3)) + 160 * (number % 2))
    (folder / "set" / "val").symlink_to("train")
    os.environ |= {"YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "true"}
    from ultralytics import YOLO
    from ultralytics.data.augment import classify_transforms
    from ultralytics.models.yolo.classify import ClassificationTrainer

    YOLO("yolo11n-cls.yaml").train(
        trainer=ClassificationTrainer,
        data=str(folder / "set"),
        project=str(folder),
        name="run",
        epochs=1,
        imgsz=64,
        batch=5,
        device="cpu",
        workers=0,
        plots=False,
        amp=False,
        pretrained=False,
    )
    (folder / "run" / "weights" / "last.pt").rename(folder / "checkpoint.pt")
    network = torch.load(folder / "checkpoint.pt", weights_only=False)["model"].float().eval()
    shown = image()
    pixels = classify_transforms(size=64)(Image.fromarray(shown).convert("RGB"))[None]
    with torch.inference_mode():
        scores, _ = network(pixels)
    _save(folder, shown, pixels.numpy(), scores)


def detectors(folder: Path) -> None:
    """Both of them in folders of their own: importing Ultralytics takes the longest."""
    for kind in (yolo11, rtdetr):
        (folder / kind.__name__).mkdir()
        kind(folder / kind.__name__)


def yolo11(folder: Path) -> None:
    """YOLO11n of three labels with random weights, exported; ``boxes`` by Ultralytics' own
    post-processing.
    """
    os.environ |= {"YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "true"}
    from ultralytics.data.augment import LetterBox
    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils.nms import non_max_suppression
    from ultralytics.utils.ops import scale_boxes

    network = DetectionModel("yolo11n.yaml", nc=3, verbose=False).float()
    shown = image()
    boxed = LetterBox((320, 320), auto=False)(image=np.repeat(shown[:, :, None], 3, 2))
    pixels = torch.from_numpy(np.ascontiguousarray(boxed.transpose(2, 0, 1)[None])).float() / 255
    norms = [part for part in network.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(pixels)  # the norms learn this picture: else all answers are alike
    network.eval()
    head = network.model[-1]
    for scores in head.cv3:
        torch.nn.init.normal_(scores[-1].weight, std=0.2)
        torch.nn.init.constant_(scores[-1].bias, -3.0)
    head.export, head.format = True, "onnx"
    with torch.no_grad():
        said = network(pixels)
    names = {"input_names": ["images"], "output_names": ["output0"]}
    torch.onnx.export(network, (pixels,), str(folder / "yolo.onnx"), opset_version=17, dynamo=False, **names)
    sys.modules.pop("torchvision", None)  # its compiled NMS is not there: Ultralytics has its own
    (found,) = non_max_suppression(said.clone(), conf_thres=0.25, iou_thres=0.45, max_det=20)
    found[:, :4] = scale_boxes(pixels.shape[2:], found[:, :4], shown.shape)
    np.savez(folder / "expected.npz", image=shown, input=pixels, scores=said.numpy(), boxes=found.numpy())


def rtdetr(folder: Path) -> None:
    """Answers of Ultralytics' RT-DETR head for random boxes and scores, in the layouts of its releases, and
    ``boxes`` by its predictor's own post-processing."""
    os.environ |= {"YOLO_CONFIG_DIR": str(folder), "YOLO_OFFLINE": "true"}
    from types import SimpleNamespace

    from ultralytics.models.rtdetr.predict import RTDETRPredictor
    from ultralytics.nn.modules.head import RTDETRDecoder

    boxes = torch.cat([torch.rand(1, 300, 2), 0.02 + 0.3 * torch.rand(1, 300, 2)], 2)
    scores = torch.rand(1, 300, 3) ** 9  # some 70 of them above .5
    head = SimpleNamespace(num_queries=300, nc=3, max_det=300, export=False, dynamic=False)
    rows = RTDETRDecoder.postprocess(head, boxes, scores)
    shown = image()
    predictor = SimpleNamespace(
        args=SimpleNamespace(conf=0.5, classes=None, max_det=100),
        batch=[["image"]],
        model=SimpleNamespace(names={0: "a", 1: "b", 2: "c"}),
    )
    (found,) = RTDETRPredictor.postprocess(predictor, rows, None, [np.repeat(shown[:, :, None], 3, 2)])
    np.savez(
        folder / "expected.npz",
        image=shown,
        rows=rows.numpy(),
        wide=torch.cat([boxes, scores], 2).numpy(),
        boxes=found.boxes.data.numpy(),
    )


@torch.no_grad()
def _spread(head: Any, pooled: torch.Tensor) -> None:
    """Fresh weights answer all alike, or beyond what a sigmoid can tell apart; these give logits about ±1."""
    torch.nn.init.normal_(head.weight)
    torch.nn.init.zeros_(head.bias)
    head.weight /= head(pooled).std()
    torch.nn.init.normal_(head.bias)


def _save(folder: Path, shown: Any, pixels: Any, scores: torch.Tensor) -> None:
    np.savez(folder / "expected.npz", image=shown, input=pixels, scores=scores.numpy())


if __name__ == "__main__":
    torch.manual_seed(1)
    offer_torchvision_operators()
    KINDS = {
        "torchxrayvision": torchxrayvision,
        "timm": timm,
        "chexnet": chexnet,
        "ultralytics": ultralytics,
        "detectors": detectors,
    }
    KINDS[sys.argv[1]](Path(sys.argv[2]))
