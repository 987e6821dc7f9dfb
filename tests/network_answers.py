"""A network answers a question once in a process: tests ask the same pictures again and again.

What is tested is the code around the networks, and they are most of the tests' time. An answer is remembered
by the network's file, where it runs and the question, so what a test sees is what the network says.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from functools import partialmethod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

MOST_BYTES = 256 << 20
"""Of answers that are remembered; the one that was asked for longest ago is forgotten first.

An answer takes a megabyte. In tests of burned-in text the networks run 7 % less than with half of it.
"""


class Answers:
    """Answers of networks by question, the latest ones."""

    def __init__(self) -> None:
        self._by_question: OrderedDict[str, list[np.ndarray]] = OrderedDict()
        self._bytes = 0
        self._turn = threading.Lock()

    def find(self, question: str) -> list[np.ndarray] | None:
        """Copies, as the network would give."""
        with self._turn:
            if question not in self._by_question:
                return None
            self._by_question.move_to_end(question)
            return [array.copy() for array in self._by_question[question]]

    def remember(self, question: str, answer: list[np.ndarray]) -> None:
        """Forget the oldest answers where there are too many."""
        with self._turn:
            self._by_question[question] = [array.copy() for array in answer]
            self._bytes += _size(answer)
            while self._bytes > MOST_BYTES and len(self._by_question) > 1:
                self._bytes -= _size(self._by_question.popitem(last=False)[1])


def remember(patch: pytest.MonkeyPatch) -> None:
    """Let ONNX Runtime look into the answers of before; the text networks run on one core each."""
    import onnxruntime

    from ai_pipeline.burnin.find.text import TextReader

    patch.setattr(TextReader, "__init__", partialmethod(TextReader.__init__, threads=1))
    load, ask = onnxruntime.InferenceSession.__init__, onnxruntime.InferenceSession.run
    answers = Answers()

    def load_and_name(session: Any, model: str | Path | bytes, *more: Any, **named: Any) -> None:
        content = model if isinstance(model, bytes) else Path(model).read_bytes()
        session.content = hashlib.sha256(content).hexdigest()
        load(session, model, *more, **named)
        session.content += session.get_providers()[0]

    def answer(session: Any, names: Any, inputs: Mapping[str, np.ndarray], options: Any = None) -> Any:
        question = _digest(session.content, names, inputs)
        found = answers.find(question)
        if found is None:
            found = ask(session, names, inputs, options)
            answers.remember(question, found)
        return found

    patch.setattr(onnxruntime.InferenceSession, "__init__", load_and_name)
    patch.setattr(onnxruntime.InferenceSession, "run", answer)


def _digest(network: str, names: Any, inputs: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(f"{network} {names}".encode())
    for name, array in inputs.items():
        digest.update(f"{name} {array.shape} {array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _size(answer: list[np.ndarray]) -> int:
    return sum(array.nbytes for array in answer)
