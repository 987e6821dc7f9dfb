"""Judge a program's answer in a process that can do nothing else (:mod:`.answer_process`).

This process hands over the files as they are and gets verdicts as JSON, and the objects that may go as the
bytes that would be sent. It parses nothing that the program wrote: an object can end at most the process of
its answer. docs/reference/confinement.md says what that one cannot do.
"""

from __future__ import annotations

import atexit
import errno
import json
import os
import pickle
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from multiprocessing.connection import Connection
from typing import Any, Final

import numpy as np

from ai_pipeline.contract import ImageHeader, Picture, ProgramFile
from dicom_node.base.errors import DecodedDifferently, NodeError, ResultRefused
from dicom_node.base.lifecycle import ResultKind
from dicom_node.base.processes import without_secrets
from dicom_node.results.built_object import BuiltObject
from dicom_node.results.context import ResultContext
from dicom_node.results.foreign.kinds import ForeignKind
from dicom_node.results.foreign.parsing import AnswerLimits
from dicom_node.results.foreign.verdict import JudgedAnswer, JudgedObject, Verdict
from dicom_node.results.source import SourceObject

ReadText = Callable[[Picture], Sequence[str]]
MEMORY: Final = 2 << 30
"""Bytes of data that the process of one answer may have."""
PICTURE: Final = struct.Struct("<III")
"""Before the samples of a picture to be read: rows, columns, samples of a pixel (1 or 3), a byte each."""
TEXT, DONE, RAISED, BROKEN = b"t", b"d", b"r", b"b"
"""What a message of that process is, by its first byte: a picture to be read, the verdicts (a message with
the bytes of each object follows), an error that is part of the contract, a defect of ours."""
ERRORS: Final[Mapping[str, type[NodeError]]] = {
    kind.__name__: kind for kind in (ResultRefused, DecodedDifferently)
}
"""Errors that reading the study's own images may raise, beside OSError."""
_START_SECONDS: Final = 120.0
_MOST_BYTES: Final = 1 << 30
"""Of one message: an object of 256 MiB that came deflated is larger when it goes."""
_MOST_TEXTS: Final = 400
"""Reasons, repairs or notes of one object."""
_LONGEST_TEXT: Final = 1_000
_NO_VERDICT: Final = "the process that read the answer gave no verdict"
_UID: Final = re.compile(r"[0-9.]{1,64}")
_CALLABLE: Final = frozenset({"exists", "series_began"})


@dataclass(frozen=True, slots=True)
class HeaderOnly:
    """What results need of a source image in another process: no pixels."""

    uid: str
    series_uid: str
    header: ImageHeader


@dataclass(frozen=True, slots=True)
class AnswerCall:
    """A program's answer with what it is judged by, as ``results.foreign.given.GivenStudy`` has it.

    ``images``: what the program got, of one study. ``context``: of the job's results.
    """

    files: Sequence[ProgramFile]
    context: ResultContext
    images: Sequence[SourceObject]
    rule: str
    limits: AnswerLimits
    known_names: frozenset[str] = frozenset()

    def packed(self) -> bytes:
        """The call for the other process. Its images have no pixels, its context asks no database."""
        context = {one.name: getattr(self.context, one.name) for one in fields(ResultContext)}
        images = [
            (
                HeaderOnly(one.image.uid, one.image.series_uid, one.image.header),
                one.path.absolute(),
                one.pixels_sha256,
                one.identity_sha256,
                one.assume_charset,
                one.by_hand,
            )
            for one in self.images
        ]
        asked = {name: value for name, value in context.items() if name not in _CALLABLE}
        return pickle.dumps((tuple(self.files), asked, images, self.rule, self.limits, self.known_names))

    @classmethod
    def of(cls, packed: bytes) -> AnswerCall:
        """The call that this process was sent by the one that started it."""
        files, context, images, rule, limits, known_names = pickle.loads(packed)
        sources = [SourceObject(*one) for one in images]
        return cls(files, ResultContext(**context), sources, rule, limits, known_names)

    @property
    def seconds(self) -> float:
        """How long it may take, without the reading of pictures: the time of one received object, and .3 s
        for each further one, 1 s for each 4 MiB.
        """
        size = sum(len(file.content) for file in self.files)
        return self.limits.header.seconds + 0.3 * len(self.files) + size / (4 * 2**20)

    def refused(self, reason: str) -> AnswerVerdict:
        """The verdict on an answer that could not be read at all."""
        objects = tuple(
            JudgedObject(file.name, ForeignKind.UNKNOWN, 0, "", "", Verdict.REFUSED, (reason,))
            for file in sorted(self.files, key=lambda file: file.name)
        )
        return AnswerVerdict(JudgedAnswer(objects, (reason,)), {}, {})


@dataclass(frozen=True, slots=True, eq=False)
class AnswerVerdict:
    """The result of judging an answer, without the data sets: they stay in the process that read them.
    ``built``: the objects that go or are held, in the bytes that would be sent; ``faults``: why an object
    cannot be released after all. The keys of both are places in ``judged.objects``.
    """

    judged: JudgedAnswer
    built: Mapping[int, BuiltObject] = field(repr=False)
    faults: Mapping[int, str]

    def objects(self, exists: Callable[[str], bool]) -> list[BuiltObject]:
        """The objects to be stored, without the bytes of those that exist. Raises ResultRefused if one cannot
        be released.
        """
        if self.faults:
            raise ResultRefused(next(iter(self.faults.values())))
        return [
            replace(planned, data=None) if exists(planned.sop_instance_uid) else planned
            for planned in self.built.values()
        ]


class AnswerJudgeLost(Exception):
    """The process died or did not answer in time; the text says why. The answer need not be at fault."""


class AnswerJudge:
    """Starts the process when it is first needed, and again if it has ended; threads take turns."""

    def __init__(self) -> None:
        """Nothing runs yet."""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def judge(self, call: AnswerCall, read_text: ReadText) -> AnswerVerdict:
        """Judge an answer. ``read_text``: reads the lines in a picture, in this process.

        An answer whose process is lost twice is refused as a whole. Raises ResultRefused, DecodedDifferently
        and FileNotFoundError for the images that the program got, OSError if no process can be started.
        """
        with self._lock:
            try:
                return self._judged(call, read_text, call.seconds)
            except AnswerJudgeLost:
                self._end()
            try:
                return self._judged(call, read_text, 4 * call.seconds)
            except AnswerJudgeLost as lost:
                self._end()
                return call.refused(str(lost))

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _judged(self, call: AnswerCall, read_text: ReadText, seconds: float) -> AnswerVerdict:
        """Judge an answer in a process of its own. Raises AnswerJudgeLost."""
        control = self._started()
        mine, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(control, [b"."], [theirs.fileno()])
        with Connection(mine.detach()) as connection:
            return _Conversation(connection, seconds, self._kill).verdict(call, read_text)

    def _started(self) -> socket.socket:
        """The socket to the process, which is started unless it runs. Raises OSError."""
        if self._control is not None and self._process is not None and self._process.poll() is None:
            return self._control
        self._end()
        control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "dicom_node.jobs.worker.answer_process"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # its errors would quote what is in an object
                # One with threads could not be forked.
                env=without_secrets() | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                start_new_session=True,
            )
        control.settimeout(_START_SECONDS)
        self._control = control
        if not control.recv(1):
            self._end()
            raise OSError(errno.ECHILD, "the process that judges answers of programs does not start")
        return control

    def _kill(self) -> None:
        """Kill the process, and with it the process of the answer."""
        if self._process is not None:
            self._process.kill()

    def _end(self) -> None:
        """End the process, if it runs."""
        control, process = self._control, self._process
        self._control = self._process = None
        if control is not None:
            control.close()
        if process is not None:
            process.kill()
            process.wait()


ANSWER_JUDGE: Final = AnswerJudge()
"""The judge that all jobs of this process share."""
atexit.register(ANSWER_JUDGE.close)


class _Conversation:
    """The exchange of messages with the process of one answer."""

    def __init__(self, connection: Connection, seconds: float, kill: Callable[[], None]) -> None:
        """``seconds``: how long it may compute; ``kill``: ends it."""
        self._connection = connection
        self._seconds = seconds
        self._kill = kill
        self._is_late = False

    def verdict(self, call: AnswerCall, read_text: ReadText) -> AnswerVerdict:
        """Hand over the call, read pictures for the process, and take its verdict. Raises AnswerJudgeLost,
        and what the process says that reading the study raised.
        """
        self._send(call.packed())
        while (message := self._received())[:1] == TEXT:
            lines = list(read_text(_picture(message[1:])))
            self._send(json.dumps(lines).encode())
        try:
            said = json.loads(message[1:])
            if message[:1] == DONE:
                return self._taken(said)
            raised = _raised(message[:1], said)
        except (IndexError, KeyError, TypeError, ValueError) as error:
            raise AnswerJudgeLost(_NO_VERDICT) from error
        raise raised

    def _taken(self, said: Mapping[str, Any]) -> AnswerVerdict:
        """The verdict with the bytes of its objects, which follow."""
        objects = tuple(_judged_object(one) for one in said["objects"])
        built = {
            int(place): _built_object(planned, self._received())
            for place, planned in said["built"].items()
            if objects[int(place)].verdict is not Verdict.REFUSED
        }
        faults = {int(place): str(text)[:_LONGEST_TEXT] for place, text in said["faults"].items()}
        return AnswerVerdict(JudgedAnswer(objects, _texts(said["reasons"])), built, faults)

    def _send(self, message: bytes) -> None:
        """Send a message, within the time."""
        with self._deadline():
            self._connection.send_bytes(message)

    def _received(self) -> bytes:
        """The next message, within the time."""
        with self._deadline():
            return self._connection.recv_bytes(_MOST_BYTES)

    @contextmanager
    def _deadline(self) -> Iterator[None]:
        """A context manager: the process is ended when the time of its answer is over. Raises
        AnswerJudgeLost.
        """
        timer = threading.Timer(max(self._seconds, 0), self._end)
        began = time.monotonic()
        timer.start()
        try:
            yield
        except (EOFError, OSError) as error:
            raise AnswerJudgeLost(self._why()) from error
        finally:
            timer.cancel()
            self._seconds -= time.monotonic() - began

    def _end(self) -> None:
        """End the process: its time is over."""
        self._is_late = True
        self._kill()

    def _why(self) -> str:
        """Why the process is lost."""
        if self._is_late:
            return "to read the answer took too long"
        return f"the process that read the answer died; it may have needed more than {MEMORY >> 20} MiB"


def _picture(message: bytes) -> Picture:
    """The picture in a message, ``[rows, columns]`` or ``[rows, columns, 3]``. Raises AnswerJudgeLost."""
    try:
        rows, columns, samples = PICTURE.unpack_from(message)
        shape = (rows, columns) if samples == 1 else (rows, columns, 3)
        return np.frombuffer(message, np.uint8, offset=PICTURE.size).reshape(shape)
    except (struct.error, ValueError) as error:
        raise AnswerJudgeLost(_NO_VERDICT) from error


def _raised(what: bytes, said: Any) -> Exception:
    """The error that a message is about. Raises ValueError, KeyError, TypeError."""
    if what == BROKEN:
        return RuntimeError(f"judging an answer failed: {str(said)[:_LONGEST_TEXT]}")
    if what != RAISED:
        raise ValueError("a message of no kind")
    if "errno" in said:
        return OSError(int(said["errno"]), os.strerror(int(said["errno"])))
    return ERRORS[said["error"]](str(said["text"])[:_LONGEST_TEXT])


def _judged_object(said: Mapping[str, Any]) -> JudgedObject:
    """A verdict from the other process, held to what a verdict may be. Raises ValueError, KeyError."""
    return JudgedObject(
        str(said["name"])[:_LONGEST_TEXT],
        ForeignKind(said["kind"]),
        int(said["position"]),
        str(said["sop_class_uid"])[:64],
        str(said["maker_uid"])[:64],
        Verdict(said["verdict"]),
        _texts(said["reasons"]),
        _texts(said["repairs"]),
        _texts(said["notes"]),
        str(said["content_sha256"])[:64],
        None,
        bool(said["names_patient"]),
    )


def _built_object(said: Mapping[str, Any], data: bytes) -> BuiltObject:
    """An object as it is handed on. Raises ValueError for what is no UID."""
    uids = [str(said[name]) for name in ("sop_instance_uid", "sop_class_uid", "series_instance_uid")]
    if not all(_UID.fullmatch(uid) for uid in uids):
        raise ValueError("a UID of an object is none")
    instance, sop_class, series = uids
    kind, is_held = ResultKind(said["kind"]), bool(said["held"])
    return BuiltObject(kind, instance, sop_class, series, "", data, of_program=True, held=is_held)


def _texts(said: Iterable[object]) -> tuple[str, ...]:
    """Sentences of a verdict."""
    return tuple(str(text)[:_LONGEST_TEXT] for text in list(said)[:_MOST_TEXTS])
