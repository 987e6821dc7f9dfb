"""The process that reads and cleans: ``python -m ai_pipeline.serve.worker``; :mod:`.processes` starts it.

Standard input is a socket, over which tasks come with two open files: what was received, and where the
cleaned file goes. Once its models are loaded the process gives up the network, other programs, and all files
but those that its libraries need; frames are decoded by a process that may do nothing but compute.
"""

import json
import os
import resource
import select
import socket
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.devices.rules import device_rules
from ai_pipeline.burnin.tools import Tools, shared_tools
from ai_pipeline.confinement import lower
from ai_pipeline.confinement.libraries import keep_libraries
from ai_pipeline.contract import SourceImage
from ai_pipeline.errors import (
    CleaningFailed,
    ImageTooLarge,
    PipelineError,
    PixelError,
)
from ai_pipeline.images.decode import DicomImage, open_dicom, picture_of
from ai_pipeline.images.decoder import DECODER
from ai_pipeline.images.header import NO_ATTRIBUTES
from ai_pipeline.images.limits import ImageLimits, lacks_memory
from ai_pipeline.serve.cleaned_object import write_cleaned
from ai_pipeline.serve.karnak_image import image_of_form, masks_of, matching_tags
from ai_pipeline.serve.report import MOST_PLACES, report_of
from ai_pipeline.serve.tasks import DICOM, MOST_BYTES, PNG, Answer, Outcome, Task

PICTURES = (b"\x89PNG", b"\xff\xd8\xff")


def main() -> None:
    """Load the models, give up rights, and answer tasks until the server's end of the socket closes."""
    control = socket.socket(fileno=0)
    settings: Mapping[str, Any] = json.loads(control.recv(MOST_BYTES))
    folders = (settings["models_dir"], settings["device_rules"])
    models_dir, rules = (Path(folder) if folder else None for folder in folders)
    lower({resource.RLIMIT_DATA: settings["memory_mib"] << 20, resource.RLIMIT_CORE: 0})
    try:
        device_rules(rules)
        tools = shared_tools(models_dir, rules)
        tools.reader.warm_up()
        DECODER.start()
    except (PipelineError, OSError) as error:
        control.send(json.dumps({"cannot_start": str(error)}).encode())
        return
    lacks = _confine(*filter(None, (models_dir, rules)))
    threading.Thread(target=_end_with, args=(control,), daemon=True).start()
    control.send(json.dumps({"cannot_start": "", "lacks": lacks}).encode())
    limits = ImageLimits(megapixels=settings["megapixels"], decoded_mib=settings["decoded_mib"])
    while _answer_next(control, tools, limits):
        DECODER.start()  # one that has ended cannot be started any more: then this process ends, too


def _answer_next(control: socket.socket, tools: Tools, limits: ImageLimits) -> bool:
    """Answer the next task; returns False if there is none any more."""
    message, files, _, _ = socket.recv_fds(control, MOST_BYTES, 2)
    if len(files) < 2:
        return False
    with os.fdopen(files[0], "rb") as source, os.fdopen(files[1], "wb") as target:
        answer = answered(Task.of(message), source, target, tools, limits)
    control.send(message_of(answer))
    return True


def message_of(answer: Answer) -> bytes:
    """The answer as one message; one that is too long becomes a refusal."""
    message = answer.packed()
    if len(message) <= MOST_BYTES:
        return message
    return Answer(Outcome.FAILED, f"its report would have more than {MOST_BYTES} bytes").packed()


def answered(task: Task, source: BinaryIO, target: BinaryIO, tools: Tools, limits: ImageLimits) -> Answer:
    """Carry out one task on the file ``source``; the cleaned file goes to ``target``."""
    try:
        if task.kind == "masks":
            return _masks(task, source, tools, limits)
        return _cleaned(task, source, target, tools, limits)
    except Exception as error:  # noqa: BLE001  (a defect, too: the process goes on)
        return _failed(error)


def _failed(error: Exception) -> Answer:
    """The answer to a task that ended with an error. Of a defect only the type is told: its text may quote a
    header.
    """
    if isinstance(error, CleaningFailed):
        places = [list(place) for place in error.places[:MOST_PLACES]]
        return Answer(Outcome.WITHHELD, f"no cleaned picture: {error}", report={"places": places})
    outcome, reason = Outcome.FAILED, f"a defect of the service ({type(error).__name__}): please report it"
    if isinstance(error, PipelineError):
        reason = str(error)
    if isinstance(error, PixelError):
        outcome = Outcome.TOO_LARGE if isinstance(error, ImageTooLarge) else Outcome.UNREADABLE
    if lacks_memory(error):
        outcome, reason = Outcome.FAILED, "there is not enough memory to clean it"
    return Answer(outcome, reason)


def _cleaned(task: Task, source: BinaryIO, target: BinaryIO, tools: Tools, limits: ImageLimits) -> Answer:
    """Clean a DICOM file or a picture. Raises PixelError and CleaningFailed."""
    head = source.read(132)
    if head[128:] == b"DICM":
        image: SourceImage = open_dicom(Path(f"/proc/self/fd/{source.fileno()}"), limits)
    elif head.startswith(PICTURES):
        image = picture_of(head + source.read(), task.modality, limits, NO_ATTRIBUTES)
    else:
        return Answer(Outcome.UNSUPPORTED, "neither DICOM (Part 10) nor PNG or JPEG")
    result = clean(image, _no_progress, policy=task.policy, in_doubt=task.in_doubt, tools=tools)
    report = report_of(result, task.policy)
    if isinstance(image, DicomImage):
        report["sop_instance_uid"] = write_cleaned(image, result, target)
        return Answer(Outcome.CLEANED, media_type=DICOM, report=report)
    from PIL import Image

    Image.fromarray(result.image.frames[0]).save(target, "PNG")
    return Answer(Outcome.CLEANED, media_type=PNG, report=report)


def _masks(task: Task, source: BinaryIO, tools: Tools, limits: ImageLimits) -> Answer:
    """Say where the image of Karnak's form must be covered. Raises PixelError and CleaningFailed."""
    sensitive = json.loads(task.form["sensitive_data_list"])
    with image_of_form(task.form, source.read(), limits) as image:
        result = clean(image, _no_progress, policy=task.policy, in_doubt=task.in_doubt, tools=tools)
        found = matching_tags(sensitive, [reading.text for reading in result.readings])
        masks = masks_of(image, result, sensitive)
    return Answer(Outcome.CLEANED, report={"masks": masks, "detected_tags": found})


def _no_progress(share: float, what: str) -> None:
    """Progress that nobody follows."""


def _end_with(control: socket.socket) -> None:
    """End this process when the server's end of the socket closes, also in the middle of a task."""
    watch = select.poll()
    watch.register(control.fileno(), 0)  # it only tells of the end
    watch.poll()
    os._exit(1)


def _confine(*folders: Path) -> str:
    """Give up all but libraries, ``folders`` (models) and temporary files; returns what this machine cannot
    take away, "" for nothing.
    """
    return keep_libraries(folders, [Path(tempfile.gettempdir())])


if __name__ == "__main__":
    try:
        main()
    finally:
        os._exit(0)  # at once: what ends libraries would signal the process that decodes, which is forbidden
