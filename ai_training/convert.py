"""``ai-pipeline models convert``: a network of timm, or a bundle of MONAI, becomes ONNX with a first card.

A pickle is code, so it is read in a process of its own:
:mod:`ai_pipeline.models.store.sandbox` says what that process can reach. It runs this module, works
in an empty folder and leaves the model and its description
there; exit code 65 with one line on stderr that says why not. The request to it is trusted. Its answer is
treated like a download: types, lengths and ranges are checked, and so is the model, again in a process of its
own. The first card has the properties and labels that are known; no figures, since none was measured.
"""

import hashlib
import re
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tomlkit
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from tomlkit.items import InlineTable

from ai_pipeline.contract import Code
from ai_pipeline.errors import CardError
from ai_pipeline.models.engine import OnnxRuntime
from ai_pipeline.models.registry import NAME, SHIPPED, Label, load
from ai_pipeline.models.store import sandbox
from ai_pipeline.models.store.confined import EXIT_DATA
from ai_training.base import CannotAdapt, UnreadableCheckpoint
from ai_training.bundle import METADATA, read

Name = Annotated[str, Field(min_length=1, max_length=64)]  # what a code meaning may have (PS3.5, LO)
Finite = Annotated[float, Field(allow_inf_nan=False)]
MODEL, ANSWER = Path("model.onnx"), Path("answer.json")  # that the process leaves
CONFIG, WEIGHTS = "config.json", "model.safetensors"  # of a folder in Hugging Face's layout
THRESHOLD = 0.5
MORE = (
    Label(
        "Lung Opacity",
        Code("112001", "DCM", "Opacity"),
        "PS3.16 CID 6104 Abnormal Opacity Finding or Feature",
        None,
        False,
        THRESHOLD,
        THRESHOLD,
    ),
    Label(
        "Fracture",
        Code("125605004", "SCT", "Fracture of bone"),
        "SNOMED CT 125605004 |Fracture of bone (disorder)|",
        None,
        False,
        THRESHOLD,
        THRESHOLD,
    ),
)
"""Labels with codes that the shipped classifier does not have."""
USE = "To be evaluated on this site's images before anyone reads its findings. Not for diagnostic use."
NO_GATE = "No domain gate: an image that is no chest X-ray is refused by its header alone."
NOT_ACCEPTED = (
    "Converted from a checkpoint; nobody has evaluated it here: every label is hidden until `ai-pipeline "
    "models "
    "accept` or `ai-pipeline evaluate chest --write-card` supports it with figures.",
    "Thresholds are .5; probabilities are not calibrated.",
)


class Request(BaseModel):
    """What the confined process is to convert. ``checkpoint``: a file, a folder in Hugging Face's layout as
    timm writes it, or a bundle of MONAI, which says all the rest itself; ``seconds``: time limit.
    ``architecture``: timm's name of it, ``labels``: of the outputs in their order, ``size``: side of the
    input in pixels; if empty or None, those of the folder or of timm. ``softmax``: the outputs exclude one
    another.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    checkpoint: Path
    architecture: str = ""
    labels: tuple[str, ...] = ()
    size: int | None = None
    softmax: bool = False
    seconds: int = 600


class ConvertedNetwork(BaseModel):
    """What the confined process reports of a converted network, for its model card; fields as in
    :class:`ai_pipeline.models.registry.Input` and ``Outputs``. ``outputs``: names of what the network
    returns. ``mean`` and ``scale`` are for values 0..255, one number or one per channel. ``difference``: the
    largest difference between the scores of the ONNX file and those of the original network, as a share of
    the largest score.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    outputs: tuple[Name, ...] = Field(max_length=8)
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$")]
    architecture: Name
    labels: tuple[Name, ...] = Field(min_length=1, max_length=4096)
    channels: Annotated[int, Field(ge=1, le=16)]
    size: Annotated[int, Field(ge=16, le=4096)]
    mean: tuple[Finite, ...] = Field(min_length=1, max_length=16)
    scale: tuple[Finite, ...] = Field(min_length=1, max_length=16)
    crop: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    squash: bool = False
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    kind: Literal["logits", "probabilities"] = "logits"
    difference: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0


class _TimmConfig(BaseModel):
    """The file ``config.json`` that timm writes into a folder beside the weights."""

    architecture: str
    pretrained_cfg: dict[str, Any]
    label_names: tuple[str, ...] = ()
    problem_type: str | None = None


def convert(
    request: Request, out: Path, *, model_id: str = "", version: str = "1", licence: str = ""
) -> tuple[Path, ConvertedNetwork]:
    """Convert a checkpoint: write ``ID.onnx`` and the model card ``ID.toml`` into ``out``; returns the card's
    path, and what the confined process reports of the network. ``model_id``: "" for the network's own. Raises
    CardError.
    """
    checkpoint = request.checkpoint.resolve()
    if not checkpoint.exists():
        raise CardError(f"{request.checkpoint} is not there")
    sandbox.require()
    with tempfile.TemporaryDirectory(prefix="ai-pipeline-") as scratch:
        folder = Path(scratch)
        ended = sandbox.run(
            "ai_training.convert",
            request.model_copy(update={"checkpoint": checkpoint}).model_dump_json(),
            folder,
            reads=[checkpoint, Path(__file__).parent],  # this package too
            seconds=request.seconds,
            required=True,
        )
        if ended.status is None:
            raise CardError(f"the conversion took longer than {request.seconds} s: see --seconds")
        made = folder / MODEL
        if ended.status or not made.is_file() or made.is_symlink():
            line = ended.line or "no model was written"
            raise CardError(f"{checkpoint.name} could not be converted: {line}")
        answer = _answer(folder / ANSWER)
        sandbox.inspect([made])
        card = written(out, made.read_bytes(), answer, model_id=model_id, version=version, licence=licence)
    return card, answer


def _answer(path: Path) -> ConvertedNetwork:
    """Read the report of the confined process in the file ``path``. Raises CardError."""
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > 1 << 20:
            raise CardError("the conversion's answer is not one")
        return ConvertedNetwork.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise CardError("the conversion's answer is not one") from error


def written(
    out: Path,
    network: bytes,
    answer: ConvertedNetwork,
    *,
    model_id: str = "",
    version: str = "1",
    licence: str = "",
) -> Path:
    """Write ``ID.onnx`` and its first model card ``ID.toml``, with ``version`` and ``licence``, into ``out``;
    returns the card's path. ``network``: the bytes of the ONNX file; ``answer``: what the confined process
    reports. Raises CardError. An empty ``model_id`` is taken from ``answer``. A label of the shipped
    classifier or of :data:`MORE`, however it is spelled, gets its code and site.
    """
    name = model_id or answer.id
    if not NAME.fullmatch(name) or not NAME.fullmatch(version):
        raise CardError("id and version must be letters, digits, '.', '_', '+' and '-', 64 at most")
    coded = (*load(SHIPPED / "chest-efficientnet-lite0.toml").labels, *MORE)
    known, labels = {_plain(label.name): label for label in coded}, []
    for own in answer.labels:
        row = {"name": own, "supported": False, "threshold": THRESHOLD, "absent_below": THRESHOLD}
        labels.append(row | _coded(own, known.get(_plain(own))))
    card = {
        "id": name,
        "version": version,
        "task": "multi-label classification of frontal chest X-rays",
        "architecture": answer.architecture,
        "licence": licence or "not known: ask the authors before use",
        "intended_use": USE,
        "limits": tomlkit.item(
            ["Not for diagnostic use. Not cleared by any authority.", *NOT_ACCEPTED, NO_GATE]
        ).multiline(multiline=True),
        "weights": [
            {"role": "classifier", "file": f"{name}.onnx", "sha256": hashlib.sha256(network).hexdigest()}
        ],
        "input": {
            **answer.model_dump(
                include={"size", "channels", "mean", "scale", "crop", "squash", "interpolation"}
            ),
            "photometric": "MONOCHROME2",
            "preprocess": "imagenet",
        },
        "outputs": {"scores": "logits", "kind": answer.kind, "place_kind": "activation"},
        "calibration": {
            "calibrated": False,
            "method": "softmax, as trained" if answer.kind == "probabilities" else "none",
        },
        "training": {"data": ["not known to this card: see the checkpoint's authors"]},
        "labels": labels,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.onnx").write_bytes(network)
    path = out / f"{name}.toml"
    by = "`ai-pipeline models convert`; `ai-pipeline evaluate chest --write-card` adds figures."
    path.write_text(f"# Written by {by}\n{tomlkit.dumps(card)}", encoding="utf-8")
    load(path)
    return path


def _plain(name: str) -> str:
    """Reduce ``name`` to small letters and digits, without differences of spelling."""
    return re.sub("[^a-z0-9]", "", name.lower())


def _coded(own: str, known: Label | None) -> dict[str, InlineTable]:
    """Code and site for the model card's row of the label ``own``. ``known``: the label of the same name with
    its code, or None for a private code.
    """
    if known is None:
        private = Code(re.sub("[^A-Z0-9]+", "_", own.upper())[:16], "99AINODE", own)
        return {"code": _code(private, source="private: no code whose source could be checked")}
    site = {"site": _code(known.site)} if known.site else {}
    return {"code": _code(known.code, source=known.code_source), **site}


def _code(code: Code, **more: str) -> InlineTable:
    """A code as an inline table of a model card; ``more``: further keys."""
    table = tomlkit.inline_table()
    table.update({"value": code.value, "scheme": code.scheme, "meaning": code.meaning, **more})
    return table


def main() -> None:
    """Main function of the confined process that converts: it reads the request and the checkpoint, and
    writes the model and a report (ConvertedNetwork).
    """
    request = Request.model_validate_json(sys.stdin.read())
    warnings.simplefilter("ignore")  # stderr is for the one line
    try:
        answer = _converted(request)
    except (CardError, CannotAdapt, UnreadableCheckpoint, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_DATA)
    ANSWER.write_text(answer.model_dump_json(), encoding="utf-8")


def _converted(request: Request) -> ConvertedNetwork:
    """Write the model as ONNX, after comparing it with the network on a random picture; returns the values
    for its model card.
    """
    if (request.checkpoint / METADATA).is_file():
        network, values = read(request.checkpoint)
        found = _checked(METADATA.name, values)
    else:
        network, found = _of_timm(request)
    _export(network, found)
    difference = _difference(network, found)
    if not difference <= 1e-3:
        raise CannotAdapt(f"the converted file answers differently from the network, by {difference:.2g}")
    return found.model_copy(update={"difference": difference})


def _of_timm(request: Request) -> tuple[Any, ConvertedNetwork]:
    """The network of timm that is asked for, and the values for its model card. Raises CannotAdapt."""
    from ai_training import networks

    given = _described(request)
    state = networks.read_weights(given.weights)
    channels = next((value.shape[1] for value in state.values() if value.ndim == 4), 3)
    network = networks.filled_timm_network(
        given.architecture, state, len(given.labels), channels, softmax=given.softmax
    )
    # timm's configuration says mean, spread, size and crop; a file of a DenseNet may be torchvision's.
    of_timm = {} if given.architecture in networks.DENSENETS else network.network.pretrained_cfg
    return network, _card_values(given, network, channels, given.about or of_timm, request.size)


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """What the request, or timm's configuration beside the weights, says of a network."""

    weights: Path
    architecture: str
    labels: tuple[str, ...]
    softmax: bool
    about: dict[str, Any]
    """timm's ``pretrained_cfg``; empty without a configuration."""


def _described(request: Request) -> _Checkpoint:
    """The network that is asked for: a file as the request describes it, a folder as timm's configuration
    does. Raises CannotAdapt.
    """
    path = request.checkpoint
    given = _Checkpoint(path, request.architecture, request.labels, request.softmax, {})
    if path.is_dir():
        try:
            config = _TimmConfig.model_validate_json((path / CONFIG).read_bytes())
        except (OSError, ValidationError) as error:
            raise CannotAdapt(f"{CONFIG} of timm, with architecture and pretrained_cfg, is needed") from error
        given = _Checkpoint(
            path / WEIGHTS,
            config.architecture,
            given.labels or config.label_names,
            given.softmax or config.problem_type == "single_label_classification",
            config.pretrained_cfg,
        )
    if not given.architecture or not given.labels or len(set(given.labels)) < len(given.labels):
        raise CannotAdapt("say what it is, and each label once: --architecture densenet121 --labels A,B")
    return given


def _card_values(
    given: _Checkpoint, network: Any, channels: int, about: dict[str, Any], size: int | None
) -> ConvertedNetwork:
    """The values for the model card. ``about``: timm's configuration; ``size``: of the input in pixels, None:
    as the configuration says. Raises CannotAdapt.
    """
    try:
        values = {
            "outputs": network.outputs,
            "id": f"timm-{given.architecture.replace('/', '-')}",
            "architecture": given.architecture,
            "labels": given.labels,
            "channels": channels,
            "size": size or about.get("input_size", (3, 224, 224))[-1],
            "mean": _of_channels(about.get("mean", (0.485, 0.456, 0.406)), channels),
            "scale": _of_channels(about.get("std", (0.229, 0.224, 0.225)), channels),
            "crop": about.get("crop_pct", 0.875),
            "squash": about.get("crop_mode", "center") == "squash",
            "interpolation": "bicubic" if about.get("interpolation") == "bicubic" else "bilinear",
            "kind": "probabilities" if given.softmax else "logits",
        }
    except TypeError as error:
        raise CannotAdapt(f"{CONFIG} is not as a card needs it: {' '.join(str(error).split())}") from error
    return _checked(CONFIG, values)


def _checked(file: str, values: dict[str, Any]) -> ConvertedNetwork:
    """Check ``values``, which come from ``file``, as those of a model card. Raises CannotAdapt."""
    try:
        return ConvertedNetwork(**values)
    except ValidationError as error:
        wrong = " ".join(str(error).split())[:200]
        raise CannotAdapt(f"labels or {file} are not as a card needs them: {wrong}") from error


def _export(network: Any, found: ConvertedNetwork) -> None:
    """Write the network as ONNX."""
    import torch

    from ai_training.cards import export_traced

    images = torch.zeros(2, found.channels, found.size, found.size)
    export_traced(network, images, found.outputs, MODEL)


def _difference(network: Any, found: ConvertedNetwork) -> float:
    """The largest difference between the file and the network on a random picture, as a share of the highest
    value.
    """
    import torch

    grey = np.random.default_rng(1).uniform(0, 255, (1, found.channels, found.size, found.size))
    mean, scale = (np.array(part)[:, None, None] for part in (found.mean, found.scale))
    images = ((grey - mean) / scale).astype(np.float32)
    answers = OnnxRuntime(MODEL.read_bytes(), threads=torch.get_num_threads())(images)
    with torch.inference_mode():
        wanted = [value.numpy() for value in network(torch.from_numpy(images))]
    pairs = zip((answers[name] for name in found.outputs), wanted, strict=True)
    return max(float(abs(a - b).max() / max(float(abs(b).max()), 1e-12)) for a, b in pairs)


def _of_channels(values: Any, channels: int) -> tuple[float, ...]:
    """Scale values of 0..1 to 0..255, one for each channel; their mean if the network reads grey."""
    if channels == len(values):
        return tuple(255.0 * value for value in values)
    return (255.0 * sum(values) / len(values),)


if __name__ == "__main__":
    main()
