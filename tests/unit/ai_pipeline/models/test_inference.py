"""One switch says where all networks run; the answers are those of the CPU, or there is a clear error."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from ai_pipeline.burnin.find.text import TextReader
from ai_pipeline.errors import NoProvider
from ai_pipeline.models import engine
from ai_pipeline.models.registry import cards, read

NETWORKS = [
    (card, weights) for card in cards() for weights in card.weights if weights.path.suffix == engine.ONNX
]


@pytest.fixture(params=["cuda", "openvino"])
def elsewhere(request: pytest.FixtureRequest) -> str:
    if missing := engine.lacking(request.param):
        pytest.skip(missing)
    return str(request.param)


@pytest.mark.parametrize(("card", "weights"), NETWORKS, ids=[f"{c.id}/{w.role}" for c, w in NETWORKS])
def test_every_shipped_network_answers_there_as_on_the_cpu(
    elsewhere: str, card: engine.Card, weights: engine.Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = engine.OnnxRuntime(read(weights), 1)
    random = np.random.default_rng(7)
    shapes = [one.shape for one in ours._session.get_inputs()]
    sizes = [[side if isinstance(side, int) else 64 for side in sides] for _, *sides in shapes]
    inputs = [random.random((1, *size), np.float32) for size in sizes]
    monkeypatch.setenv(engine.INFERENCE, elsewhere)
    answers, theirs = ours(*inputs), engine.OnnxRuntime(read(weights), 1)(*inputs)
    for name, answer in answers.items():
        scale = max(float(np.abs(answer).max()), 1.0)
        furthest = float(np.abs(theirs[name] - answer).max())
        print(f"{card.id}/{weights.role} {name}: {furthest:.2g} of {scale:.2g}")
        assert furthest <= 1e-3 * scale, name


def test_text_is_read_there_as_on_the_cpu(elsewhere: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import cv2

    picture = np.zeros((200, 600), np.uint8)
    cv2.putText(picture, "DOE JANE 1970", (40, 110), cv2.FONT_HERSHEY_SIMPLEX, 1.2, 220, 2)

    def read_by(reader: TextReader) -> list[tuple[str, tuple[int, ...]]]:
        return [(reader.read(picture, box).text, box.box) for box in reader.find(picture)]

    on_cpu = read_by(TextReader())
    monkeypatch.setenv(engine.INFERENCE, elsewhere)
    assert on_cpu
    assert read_by(TextReader()) == on_cpu


@pytest.mark.parametrize("where", ["cuda", "openvino"])
def test_a_provider_that_is_not_installed_is_named_with_the_remedy(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setenv(engine.INFERENCE, where)
    with pytest.raises(NoProvider, match=f"has no {re.escape(engine.PROVIDERS[where][0])}.*or choose cpu"):
        engine.session(b"", 1)
    assert "choose from cpu, cuda, openvino" in engine.lacking("tpu")


def test_check_says_that_a_provider_is_not_installed(tmp_path: Path) -> None:
    if not engine.lacking("cuda"):
        pytest.skip("CUDA is here")
    config = tmp_path / "node.toml"
    config.write_text(f'[node]\ndata_dir = "{tmp_path}"\n[workers]\ninference = "cuda"\n', encoding="utf-8")
    command = [sys.executable, "-m", "dicom_node", "check", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 78
    assert "workers.inference" in done.stdout + done.stderr
    assert "CUDAExecutionProvider" in done.stdout + done.stderr
