"""Checkpoints that are programs for ``torch.load`` are refused before it sees them."""

from __future__ import annotations

import io
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ai_pipeline.errors import UnreadableCheckpoint
from ai_pipeline.networks.checkpoints import read_state

ROOT = Path(__file__).resolve().parents[4]


def torchscript_that_writes(path: Path, written: Path) -> None:
    """A TorchScript archive whose ``__setstate__``, run as it is loaded, writes the file ``written``."""

    class Writes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2, 2))
            self.place = str(written)
            self.training = False

        @torch.jit.export  # type: ignore[untyped-decorator]
        def __getstate__(self) -> tuple[torch.Tensor, str]:
            return self.weight, self.place

        @torch.jit.export  # type: ignore[untyped-decorator]
        def __setstate__(self, state: tuple[torch.Tensor, str]) -> None:
            self.weight = state[0]
            self.place = state[1]
            self.training = False
            torch.save(state[0], state[1])

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated, its files are not gone
        torch.jit.save(torch.jit.script(Writes()), str(path))
    written.unlink(missing_ok=True)


def legacy_tar(path: Path, _written: Path) -> None:
    """The format of torch before 0.1.10, which is unpacked into a folder before any of it is read."""
    with tarfile.open(path, "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            data = pickle.dumps({"little_endian": True} if name == "sys_info" else 0)
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))


def zip_with_constants(path: Path, _written: Path) -> None:
    """Numbers as any other, with the one file by which ``torch.load`` knows a program."""
    torch.save({"weight": torch.ones(2)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{folder}/constants.pkl", pickle.dumps(()))


def zip_with_code(path: Path, _written: Path) -> None:
    torch.save({"weight": torch.ones(2)}, path)
    with zipfile.ZipFile(path, "a") as archive:
        folder = archive.namelist()[0].partition("/")[0]
        archive.writestr(f"{folder}/code/__torch__.py", "")


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (torchscript_that_writes, "is TorchScript, which is a program"),
        (zip_with_constants, "is TorchScript, which is a program"),
        (zip_with_code, "is TorchScript, which is a program"),
        (legacy_tar, "is a tar of torch before 0.1.10"),
    ],
)
def test_a_checkpoint_that_torch_would_run_or_unpack_is_refused_before_torch_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path, Path], None], told: str
) -> None:
    checkpoint, written = tmp_path / "checkpoint.pt", tmp_path / "written"
    make(checkpoint, written)
    seen: list[Any] = []
    original = torch.load

    def load(*arguments: Any, **more: Any) -> Any:
        seen.append(arguments)
        return original(*arguments, **more)

    monkeypatch.setattr(torch, "load", load)

    with pytest.raises(UnreadableCheckpoint, match=told):
        read_state(checkpoint)

    assert not written.exists()
    assert seen == []


@pytest.mark.parametrize("new", [True, False])
def test_numbers_in_either_format_are_read(tmp_path: Path, new: bool) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "c.pt", _use_new_zipfile_serialization=new)

    assert read_state(tmp_path / "c.pt")["weight"].tolist() == [1.0, 1.0]


def test_half_an_archive_is_no_checkpoint(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2000)}, tmp_path / "c.pt")
    (tmp_path / "c.pt").write_bytes((tmp_path / "c.pt").read_bytes()[:3000])

    with pytest.raises(UnreadableCheckpoint, match="no PyTorch checkpoint"):
        read_state(tmp_path / "c.pt")


def test_pickles_are_opened_only_where_the_confined_process_does_it() -> None:
    texts = {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for package in ("ai_pipeline", "ai_training", "dicom_node")
        for path in (ROOT / package).rglob("*.py")
    }
    networks, confined = "ai_pipeline/networks", "ai_pipeline/models/store/conversion_process.py"
    adapters, checkpoints, foreign, nih, huggingface = (
        f"{networks}/{name}.py" for name in ("adapters", "checkpoints", "foreign", "nih", "huggingface")
    )
    expected = {
        "weights_only=False": {checkpoints, foreign},
        "torch.jit.load": set(),
        "read_state(": {checkpoints, adapters, nih, huggingface},
        "ultralytics_classifier(": {foreign, adapters},
        "huggingface.adapt": {adapters},
        "nih.eva_x": {adapters},
        "networks.adapters import": {confined},
    }
    assert {call: {name for name, text in texts.items() if call in text} for call in expected} == expected
