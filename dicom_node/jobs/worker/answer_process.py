"""The process in which answers of programs are judged; :mod:`.answer_judge` starts it.

It imports what judging needs and then forks a child for each answer. The child gives up the network, other
processes, and all files but libraries and the images that the program got, before it reads the answer. So
nothing of one patient's answer is left for the next, and nothing in an answer reaches the worker but verdicts
and the bytes that were judged. Text in pictures is read by the worker, which has the models: it gets samples.
"""

import contextlib
import errno
import json
import os
import resource
import signal
import socket
from collections.abc import Sequence
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import numpy.typing as npt

import dicom_node
from ai_pipeline.confinement import die_with_parent, lower
from ai_pipeline.confinement.libraries import keep_libraries
from ai_pipeline.errors import NoDecoder
from ai_pipeline.images.decoder import DECODER
from ai_pipeline.images.limits import lacks_memory
from dicom_node.base.errors import ResultRefused
from dicom_node.jobs.worker.answer_judge import (
    BROKEN,
    DONE,
    ERRORS,
    MEMORY,
    PICTURE,
    RAISED,
    TEXT,
    AnswerCall,
)
from dicom_node.jobs.worker.document_reader import can_read, read_document
from dicom_node.jobs.worker.failures import place_of
from dicom_node.results.built_object import BuiltObject
from dicom_node.results.foreign.answer import judge_answer
from dicom_node.results.foreign.candidate import Readers
from dicom_node.results.foreign.given import GivenInstance, GivenStudy
from dicom_node.results.foreign.verdict import JudgedAnswer, JudgedObject, Verdict
from dicom_node.results.program_objects import build_program_objects
from dicom_node.results.source import read_sources


def main() -> None:
    """Fork a process for each answer until standard input, a socket, closes: each message brings the socket
    over which that process gets its answer.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # whom it serves may need it yet
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how a child ended
    with contextlib.suppress(OSError):  # the kernel shall rather take this process than the one it serves
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    control = socket.socket(fileno=0)
    here = os.getpid()
    control.send(b".")  # ready
    while sockets := socket.recv_fds(control, 1, 1)[1]:
        if not os.fork():
            with contextlib.suppress(BaseException):
                die_with_parent(here)
                control.close()
                with Connection(sockets[0]) as connection:
                    _answer(connection)
            os._exit(0)
        os.close(sockets[0])


def _answer(connection: Connection) -> None:
    """Judge the answer that comes over ``connection``."""
    lower({resource.RLIMIT_DATA: MEMORY, resource.RLIMIT_CORE: 0})
    call = AnswerCall.of(connection.recv_bytes())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # the decoder inherits it, and waits for its processes
    with contextlib.suppress(NoDecoder, OSError):  # without one, compressed pictures wait for a person
        DECODER.start()  # of this answer alone; afterwards no process can be started
    _confine(call)
    try:
        judged, built, faults = _judged(call, connection)
    except tuple(ERRORS.values()) as error:
        _send(connection, RAISED, {"error": type(error).__name__, "text": str(error)})
    except OSError as error:
        _send(connection, RAISED, {"errno": error.errno or errno.EIO})
    except Exception as error:
        if lacks_memory(error):
            raise  # it ends: the worker tries again, and then refuses the answer
        _send(connection, BROKEN, place_of(error))
    else:
        objects = [_verdict_row(one) for one in judged.objects]
        planned = {place: _object_row(one) for place, one in built.items()}
        _send(
            connection,
            DONE,
            {"objects": objects, "reasons": judged.reasons, "built": planned, "faults": faults},
        )
        for one in built.values():
            connection.send_bytes(one.data or b"")


def _confine(call: AnswerCall) -> None:
    """Give up all but libraries and the folders of the images that the program got."""
    package = Path(dicom_node.__file__).parent
    keep_libraries([package, *{one.path.parent for one in call.images}])


def _judged(
    call: AnswerCall, connection: Connection
) -> tuple[JudgedAnswer, dict[int, BuiltObject], dict[int, str]]:
    """The verdicts, the objects that may go, and why one may not after all, by their places. Raises as
    ``read_sources``.
    """
    sources = read_sources(call.images)
    given = GivenStudy(
        call.context,
        sources[0].header,
        {one.image.uid: GivenInstance.read(one.path) for one in call.images},
        rule=call.rule,
        known_names=call.known_names,
    )

    def read_text(picture: npt.NDArray[np.uint8]) -> Sequence[str]:
        """Have the worker read the text in a picture."""
        rows, columns, *samples = picture.shape
        head = PICTURE.pack(rows, columns, *(samples or (1,)))
        connection.send_bytes(TEXT + head + np.ascontiguousarray(picture).tobytes())
        return [str(line) for line in json.loads(connection.recv_bytes())]

    # Without the extra "ai" nothing reads a document: it waits for a person then.
    readers = Readers(read_text, partial(read_document, read_text=read_text) if can_read() else None)
    judged = judge_answer(call.files, given, call.limits, readers)
    built: dict[int, BuiltObject] = {}
    faults: dict[int, str] = {}
    for place, one in enumerate(judged.objects):
        if judged.reasons or one.verdict is Verdict.REFUSED:
            continue
        try:
            [built[place]] = build_program_objects(JudgedAnswer((one,)), call.context, sources)
        except ResultRefused as error:
            faults[place] = str(error)
    return judged, built, faults


def _verdict_row(judged: JudgedObject) -> dict[str, object]:
    """The values of a verdict, without its data set."""
    names = (
        "name", "kind", "position", "sop_class_uid", "maker_uid", "verdict", "reasons", "repairs", "notes",
        "content_sha256", "names_patient",
    )  # fmt: skip
    return {name: getattr(judged, name) for name in names}


def _object_row(built: BuiltObject) -> dict[str, object]:
    """The values of an object, without its bytes."""
    names = ("kind", "sop_instance_uid", "sop_class_uid", "series_instance_uid", "held")
    return {name: getattr(built, name) for name in names}


def _send(connection: Connection, kind: bytes, content: object) -> None:
    """Send a message of this kind."""
    connection.send_bytes(kind + json.dumps(content).encode())


if __name__ == "__main__":
    main()
