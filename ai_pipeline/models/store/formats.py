"""Check that a file may be run: ONNX of standard operators in one piece, and plain arrays.

As a program, which :mod:`.sandbox` runs apart, it checks the files of a JSON list on standard input.
"""

import json
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ai_pipeline.errors import CardError
from ai_pipeline.models.engine import ONNX
from ai_pipeline.models.store.confined import EXIT_DATA

LARGEST = 2 << 30  # bytes: what one ONNX file without external data can hold
LARGEST_ARRAYS = 256 << 20  # bytes of all arrays in one file, inflated; those of the shipped models take 1 %


def main() -> None:
    """Check the files; exit with code 65 and one line on standard error at the first one that
    may not be run.
    """
    try:
        for path in json.load(sys.stdin):
            check(Path(path))
    except CardError as error:
        print(error, file=sys.stderr)
        sys.exit(EXIT_DATA)


def check(path: Path) -> None:
    """Check the file at ``path`` without running any of it. Raises CardError when it may not be run."""
    checks = {ONNX: _onnx, ".npz": _arrays}  # the last of gates and boxes
    if path.suffix not in checks:
        raise CardError(
            f"{path.name} is not taken: only ONNX is run (a pickle is code); make it with "
            "`ai-pipeline models convert`"
        )
    if path.stat().st_size > LARGEST:
        raise CardError(f"{path.name} is larger than {LARGEST >> 30} GiB")
    checks[path.suffix](path)


def _onnx(path: Path) -> None:
    """Check that an ONNX file holds standard operators only. Raises CardError."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(str(path), load_external_data=False)
        for part in _parts(model):
            _check_part(part, path.name)
        onnx.checker.check_model(model)
    except (DecodeError, onnx.checker.ValidationError) as error:
        raise CardError(f"{path.name} is no valid ONNX file: {str(error).splitlines()[0]}") from error


def _check_part(part: Any, name: str) -> None:
    """Raise CardError for a part of an ONNX file ``name`` that is more than standard operators in one
    file.
    """
    from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped]

    kind = part.DESCRIPTOR.name
    if kind == "TensorProto" and (part.data_location == part.EXTERNAL or part.external_data):
        raise CardError(
            f"{name} keeps its weights in other files, which no hash covers: save it in one piece"
        )
    if kind == "FunctionProto":  # one that is named like a kernel of the run time would be that kernel
        raise CardError(f"{name} brings functions of its own ({part.name}): export it with them inlined")
    if kind == "NodeProto" and part.domain not in {"", "ai.onnx", "ai.onnx.ml"}:
        raise CardError(
            f"{name} needs the operator {part.domain}.{part.op_type}, which is not ONNX's own: "
            "export it with standard operators"
        )
    if kind == "Opaque" or len(UnknownFieldSet(part)):
        raise CardError(
            f"{name} holds what ONNX as installed here does not know: export it for an older ONNX"
        )


def _parts(message: Any) -> Iterator[Any]:
    """Every message inside a protobuf message, itself first: graphs, nodes, attributes, tensors, types."""
    waiting = [message]
    while waiting:
        part = waiting.pop()
        yield part
        for field, value in part.ListFields():
            if field.message_type is not None:
                waiting += [value] if hasattr(value, "ListFields") else value


def _arrays(path: Path) -> None:
    """Check that an ``.npz`` file holds plain arrays only. Raises CardError."""
    import numpy as np

    try:
        with zipfile.ZipFile(path) as archive:
            # Of each no more is inflated than it declares.
            if sum(entry.file_size for entry in archive.infolist()) > LARGEST_ARRAYS:
                raise CardError(f"{path.name} would grow beyond {LARGEST_ARRAYS >> 20} MiB: not taken")
        with np.load(path, allow_pickle=False) as arrays:
            for name in arrays.files:
                # Fails for a pickle, and for an array of another size than it declares.
                if not isinstance(arrays[name], np.ndarray):
                    raise ValueError(name)
    except (ValueError, OSError, zipfile.BadZipFile, MemoryError, TypeError, EOFError, zlib.error) as error:
        raise CardError(f"{path.name} holds something else than plain arrays") from error


if __name__ == "__main__":
    main()
