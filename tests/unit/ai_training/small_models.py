"""Small real models for the store: an ONNX network that a person can compute by hand, and its card."""

from pathlib import Path

import onnx.parser

from ai_training.convert import ConvertedNetwork, written

LABELS = ("Effusion", "Lung Lesion")
SIDE = 64  # pixels; the maps have a cell for each 8


def parsed(graph: str) -> onnx.ModelProto:
    """A model of ONNX 17 written as text, as ``onnx.parser`` reads it."""
    return onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["": 17]> {graph}')


def network(slope: float = 1.0) -> onnx.ModelProto:
    """Two labels: how bright the picture is, and how dark, ``slope`` times; with features and places."""
    weights = f"{{{slope}, {-slope}}}"
    return parsed(f"""
        small (float[n, 1, {SIDE}, {SIDE}] images)
            => (float[n, 2] logits, float[n, 1, 8, 8] features, float[n, 2, 8, 8] places)
            <float[2, 1] head = {weights}, float[2, 1, 1, 1] kernel = {weights}>
        {{
            features = AveragePool <kernel_shape = [8, 8], strides = [8, 8]> (images)
            pooled = GlobalAveragePool (features)
            flat = Flatten (pooled)
            logits = Gemm <transB = 1> (flat, head)
            places = Conv (features, kernel)
        }}
    """)


def ratio() -> bytes:
    """A network that divides one number by another."""
    model = parsed("ratio (float[1] one, float[1] other) => (float[1] ratio) { ratio = Div (one, other) }")
    return bytes(model.SerializeToString())


ANSWER = ConvertedNetwork(
    outputs=("logits", "features", "places"),
    id="small",
    architecture="small",
    labels=LABELS,
    channels=1,
    size=SIDE,
    mean=(0.0,),
    scale=(255.0,),
)


def write(folder: Path, model: onnx.ModelProto | None = None, *, version: str = "1") -> tuple[Path, Path]:
    """``small.onnx``, by default the small network, and its card ``small.toml`` in ``folder``."""
    made = (model or network()).SerializeToString()
    card = written(folder, made, ANSWER, version=version, licence="Apache-2.0")
    return card.with_suffix(".onnx"), card
