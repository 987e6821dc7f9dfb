"""A network on any backbone says the same through its exported file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.export import Dim

from ai_pipeline.models.engine import OnnxRuntime
from ai_training.cards import export
from ai_training.chest.ship import export_onnx
from ai_training.networks.backbones import StartWeights, classifier
from ai_training.networks.outlines import HeadGraph, HeadNetwork, outline_network

RANDOM = StartWeights("random")


@pytest.mark.parametrize("name", ["timm/resnet18", "timm/test_vit"])
def test_a_classifier_on_any_backbone_is_exported_as_it_is(name: str, tmp_path: Path) -> None:
    network = classifier(name, RANDOM, 4, 64).eval()
    narrow, images = network.narrowed([2, 0]), torch.randn(3, 3, 64, 64)
    with torch.inference_mode():
        expected, every = [part.numpy() for part in narrow(images)], network(images)[0].numpy()
    export_onnx(narrow, 64, tmp_path / "network.onnx")
    found = OnnxRuntime((tmp_path / "network.onnx").read_bytes(), 1)(images.numpy())
    for output, wanted in zip(("logits", "features", "places"), expected, strict=True):
        np.testing.assert_allclose(found[output], wanted, atol=1e-4)
    np.testing.assert_allclose(expected[0], every[:, [2, 0]], atol=1e-5)
    assert expected[2].shape == (3, 2, 4, 4) and np.ptp(expected[0]) > 0


@pytest.mark.parametrize("name", ["timm/test_convnext", "timm/test_vit"])
def test_an_outline_on_any_backbone_is_exported_as_it_is(name: str, tmp_path: Path) -> None:
    graph = HeadGraph(HeadNetwork(outline_network(name, RANDOM, 1, 64, 96))).eval()
    images, shapes = torch.randn(2, 3, 64, 96), {"images": {0: Dim("pictures", max=16)}}
    with torch.inference_mode():
        expected = dict(zip(("head", "present"), (part.numpy() for part in graph(images)), strict=True))
    export(graph, (images,), shapes, ("head", "present"), tmp_path / "head.onnx")
    found = OnnxRuntime((tmp_path / "head.onnx").read_bytes(), 1)(images.numpy())
    assert expected["head"].shape == (2, 64, 96)
    for output, wanted in expected.items():
        np.testing.assert_allclose(found[output], wanted, atol=1e-4)
