"""Have ``ai-pipeline serve`` clean what Orthanc receives of burned-in text: docs/connect/orthanc-cleaning.md.

For Orthanc's Python plugin (4.0 and newer, Orthanc 1.10 and newer); needs Python's standard library only.

What the sources of Orthanc and of its plugin make necessary:

* The plugin stores an object **as it is** when a callback raises, and tells the sender "Success" of an object
  that a callback discards. An object that must not be stored is therefore replaced by nothing, which Orthanc
  cannot store: C-STORE fails with A700 (out of resources: try again), REST with 500. With one that will never
  be cleaned the sender must not try again: an object without an image takes its place, and the filter of
  C-STORE refuses that one with C000 (cannot understand).
* Orthanc looks at one received object at a time, and every other sender waits: hence the deadline.
* A thread of Python's that calls Orthanc's own functions can lock up with a callback (plugin 4.0 keeps the
  interpreter's lock meanwhile): the thread that copies asks Orthanc by HTTP only.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import socket
import ssl
import struct
import threading
import time
import urllib.parse
from enum import Enum
from typing import Any, NamedTuple

import orthanc

SECTION = "CleanReceived"
"""Name of the section in Orthanc's configuration."""
KINDS = {
    "Ultrasound": ("3", "3.1", "6", "6.1", "6.2"),
    "SecondaryCapture": ("7", "7.1", "7.2", "7.3", "7.4"),
}
"""SOP classes (PS3.4 B.5) of each kind, below 1.2.840.10008.5.1.4.1.1."""
_STORAGE = "1.2.840.10008.5.1.4.1.1."
_ACTIONS, _LOSSES = ("Keep", "Replace", "Copy"), ("Refuse", "Discard")
_DEFAULTS: dict[str, Any] = {
    "Url": "http://127.0.0.1:8000",
    "Token": "",
    "Certificate": "",
    "Ultrasound": "Keep",
    "SecondaryCapture": "Keep",
    "Withheld": "Refuse",
    "Unavailable": "Refuse",
    "DeadlineSeconds": 30,
    "Policy": "clinical",
    "InDoubt": "keep",
}
_CHOICES = {
    "Ultrasound": _ACTIONS,
    "SecondaryCapture": _ACTIONS,
    "Withheld": _LOSSES,
    "Unavailable": _LOSSES,
    "Policy": ("clinical", "research"),
    "InDoubt": ("keep", "box", "withhold"),
}
METADATA = "4201"
"""Metadata of an instance that say what became of its copy: one of the states below."""
WAITING, CLEANED, COPY, WITHHELD = "waiting", "cleaned", "copy", "withheld"
MAKER = "ai-pipeline"
"""Manufacturer's Model Name in the Contributing Equipment of cleaned objects."""
RETRY_SECONDS = 30.0
LOOK_BACK = 20_000
"""Newest changes that are looked through after a start for copies that still wait."""
LARGEST_ANSWER = 2 << 30
"""Bytes."""
OUT_OF_RESOURCES = (orthanc.ReceivedInstanceAction.MODIFY, b"")
"""Nothing, which cannot be stored. It is made beforehand: also without memory it can be returned."""
CANNOT_UNDERSTAND = 0xC000
_LATE = "no answer in time"


class Outcome(Enum):
    """How a request to clean ended. ``WITHHELD``: it will not end otherwise the next time."""

    CLEANED = 1
    WITHHELD = 2
    UNAVAILABLE = 3


class Answer(NamedTuple):
    """What came of a request to clean; ``reason`` names nobody."""

    outcome: Outcome
    reason: str = ""
    content: bytes = b""


class Http:
    """A server by HTTP; every request ends within its seconds."""

    def __init__(self, url: str, authorization: str, context: ssl.SSLContext | None) -> None:
        """Prepare for ``url``; ``authorization``: the header of that name, "" for none."""
        parts = urllib.parse.urlsplit(url)
        self._host, self._port, self._context = parts.hostname or "", parts.port, context
        self._is_tls, self._path = parts.scheme == "https", parts.path.rstrip("/")
        self._headers = {"Authorization": authorization} if authorization else {}

    def request(
        self, method: str, path: str, body: bytes, seconds: float, accept: str = "*/*"
    ) -> tuple[int, str, bytes]:
        """Status, media type and content of the answer. Raises OSError and http.client.HTTPException, also
        for an answer that is late, cut or too long.
        """
        due = time.monotonic() + seconds
        if self._is_tls:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=seconds, context=self._context
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=seconds)
        with contextlib.closing(connection):
            connection.connect()
            # The timeout of a socket is for each of its parts; this is for all of it.
            timer = threading.Timer(max(0.0, due - time.monotonic()), _cut, [connection.sock])
            timer.daemon = True
            timer.start()
            try:
                headers = {**self._headers, "Accept": accept, "Content-Type": "application/dicom"}
                connection.request(method, self._path + path, body, headers)
                answer = connection.getresponse()
                content = _whole(answer)
            finally:
                timer.cancel()
            if time.monotonic() > due:
                raise TimeoutError(_LATE)
            return answer.status, answer.headers.get_content_type(), content


def _cut(sock: socket.socket) -> None:
    """End what waits for a socket."""
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _whole(answer: http.client.HTTPResponse) -> bytes:
    """The content of an answer. Raises http.client.HTTPException if it is cut or too long."""
    if answer.length is None and not answer.chunked:
        raise http.client.HTTPException("an answer without its length")
    content = answer.read(LARGEST_ANSWER)
    if answer.length or (not answer.isclosed() and answer.read(1)):
        raise http.client.HTTPException("an answer that is cut or too long")
    return content


class Cleaner:
    """``ai-pipeline serve``."""

    def __init__(self, settings: dict[str, Any]) -> None:
        """Prepare by the settings. Raises OSError for a certificate that cannot be read."""
        token, file = settings["Token"], settings["Certificate"]
        context = ssl.create_default_context(cafile=file or None)
        self._http = Http(settings["Url"], f"Bearer {token}" if token else "", context)
        self._path = f"/clean?policy={settings['Policy']}&in_doubt={settings['InDoubt']}"
        self._seconds = float(settings["DeadlineSeconds"])
        self._not_before = 0.0

    def clean(self, content: bytes) -> Answer:
        """The cleaned object of a DICOM file, or why there is none. After an answer that did not come in time
        nothing is asked for as long again: senders would wait in vain, each for its own deadline.
        """
        began = time.monotonic()
        if began < self._not_before:
            return Answer(Outcome.UNAVAILABLE, _LATE)
        try:
            status, kind, cleaned = self._http.request(
                "POST", self._path, content, self._seconds, "application/dicom"
            )
        except (OSError, http.client.HTTPException, ValueError) as error:
            ended = time.monotonic()
            if ended - began < self._seconds * 0.9:
                return Answer(Outcome.UNAVAILABLE, f"no answer ({type(error).__name__})")
            self._not_before = ended + self._seconds
            return Answer(Outcome.UNAVAILABLE, _LATE)
        if status == 200 and kind == "application/dicom" and cleaned[128:132] == b"DICM":
            return Answer(Outcome.CLEANED, content=cleaned)
        outcome = Outcome.WITHHELD if status in (400, 413, 415, 422) else Outcome.UNAVAILABLE
        return Answer(outcome, f"status {status}{_detail(cleaned)}")


def _detail(content: bytes) -> str:
    """The reason of a refusal."""
    try:
        return f": {str(json.loads(content)['detail'])[:200]}"
    except (ValueError, LookupError, TypeError):
        return ""


def _element(tag: tuple[int, int], kind: bytes, text: str) -> bytes:
    """An element of Explicit VR Little Endian (PS3.5 7.1.2)."""
    value = text.encode("ascii")
    value += (b"\0" if kind == b"UI" else b" ") * (len(value) % 2)
    return struct.pack("<HH2sH", *tag, kind, len(value)) + value


NO_IMAGE_UID = "2.25.302906385201845773148062745339518240117"


def _without_image() -> bytes:
    """A DICOM file of nobody and nothing, in place of one that is not stored."""
    capture = "1.2.840.10008.5.1.4.1.1.7"
    meta = _element((2, 2), b"UI", capture) + _element((2, 3), b"UI", NO_IMAGE_UID)
    meta += _element((2, 16), b"UI", "1.2.840.10008.1.2.1") + _element((2, 18), b"UI", "2.25.1")
    version = struct.pack("<HH2sHI2s", 2, 1, b"OB", 0, 2, b"\0\1")
    length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(version + meta))
    data = _element((8, 0x16), b"UI", capture) + _element((8, 0x18), b"UI", NO_IMAGE_UID)
    data += _element((0x10, 0x20), b"LO", "NOT STORED")
    data += _element((0x20, 0xD), b"UI", f"{NO_IMAGE_UID}.1") + _element(
        (0x20, 0xE), b"UI", f"{NO_IMAGE_UID}.2"
    )
    return bytes(128) + b"DICM" + length + version + meta + data


WITHOUT_IMAGE = (orthanc.ReceivedInstanceAction.MODIFY, _without_image())


def action_of(settings: dict[str, Any], sop_class_uid: str) -> str:
    """What is done with objects of a SOP class: "Keep", "Replace" or "Copy". Odd values count, too: padding,
    several UIDs.
    """
    uids = {uid.strip(" \0") for uid in sop_class_uid.split("\\")}
    for kind, classes in KINDS.items():
        if uids & {_STORAGE + number for number in classes}:
            return str(settings[kind])
    return "Keep"


class Replacement:
    """Puts the cleaned object in the place of what is received, before Orthanc stores it."""

    def __init__(self, settings: dict[str, Any], cleaner: Cleaner) -> None:
        """Prepare."""
        self._settings, self._cleaner = settings, cleaner

    def received(self, content: bytes, origin: int) -> tuple[int, bytes | None]:
        """The plugin's callback for a received object: what is stored instead. Never raises."""
        try:
            return self._stored(content, origin)
        except BaseException as error:  # noqa: BLE001  (the plugin would store the uncleaned object)
            with contextlib.suppress(BaseException):
                orthanc.LogError(f"cleaning: a defect ({type(error).__name__}); nothing was stored")
            return OUT_OF_RESOURCES

    def _stored(self, content: bytes, origin: int) -> tuple[int, bytes | None]:
        """What is stored of a received object. Raises if it cannot be read."""
        source = _read(content)
        if action_of(self._settings, source.get(_SOP_CLASS, "")) != "Replace":
            return orthanc.ReceivedInstanceAction.KEEP_AS_IS, None
        answer = self._cleaner.clean(content)
        if answer.outcome is Outcome.CLEANED:
            cleaned = _read(answer.content)
            if all(source.get(tag) == cleaned.get(tag) for tag in _SAME):
                return orthanc.ReceivedInstanceAction.MODIFY, answer.content
            answer = Answer(Outcome.UNAVAILABLE, "the answer is of another patient, study or kind")
        is_withheld = answer.outcome is Outcome.WITHHELD
        loss = self._settings["Withheld" if is_withheld else "Unavailable"]
        what = "discarded" if loss == "Discard" else "refused"
        orthanc.LogWarning(f"cleaning: {what} {source.get(_UID, '')}: {answer.reason}")
        if loss == "Discard":
            return orthanc.ReceivedInstanceAction.DISCARD, None
        is_c_store = origin == orthanc.InstanceOrigin.DICOM_PROTOCOL
        return WITHOUT_IMAGE if is_withheld and is_c_store else OUT_OF_RESOURCES


def status_of(instance: Any) -> int:
    """The plugin's filter of C-STORE: refuse what stands for an object that will never be cleaned."""
    return CANNOT_UNDERSTAND if NO_IMAGE_UID in instance.GetInstanceSimplifiedJson() else 0


_SOP_CLASS, _UID = "0008,0016", "0008,0018"
_SAME = (_SOP_CLASS, "0010,0020", "0020,000d")
"""SOP Class UID, Patient ID and Study Instance UID."""


def _read(content: bytes) -> dict[str, Any]:
    """The attributes of a DICOM file by tag. Raises if it is none."""
    short, none = orthanc.DicomToJsonFormat.SHORT, orthanc.DicomToJsonFlags.NONE
    found: dict[str, Any] = json.loads(orthanc.DicomBufferToJson(content, short, none, 256))
    return found


_FAILURES = (OSError, http.client.HTTPException, ValueError, LookupError)
"""What a request to Orthanc can end with."""


class Copies:
    """Stores a cleaned copy beside each original. Orthanc's metadata say which copies wait, so that neither a
    restart nor a service that is away loses one.
    """

    def __init__(self, settings: dict[str, Any], cleaner: Cleaner, own: Http) -> None:
        """Prepare; ``own``: this Orthanc."""
        self._settings, self._cleaner, self._own = settings, cleaner, own
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._is_stopped = False

    def changed(self, change: int, _level: int, resource: str) -> None:
        """The plugin's callback for changes."""
        if change == orthanc.ChangeType.ORTHANC_STARTED:
            self._thread.start()
        elif change == orthanc.ChangeType.ORTHANC_STOPPED:
            self._is_stopped = True
            self._queue.put(None)
        elif change == orthanc.ChangeType.NEW_INSTANCE:
            try:
                if not self._is_to_copy(self._metadata(resource)):
                    return
                self._mark(resource, WAITING)
            except _FAILURES as error:  # the thread tries it again
                orthanc.LogWarning(f"cleaning: {resource} is not marked ({type(error).__name__})")
            self._queue.put(resource)

    def _run(self) -> None:
        """Copy one after the other until Orthanc stops."""
        try:
            self._look_back()
        except _FAILURES as error:
            orthanc.LogError(f"cleaning: what waited was not found ({type(error).__name__})")
        waiting: list[str] = []
        retry_at = time.monotonic() + RETRY_SECONDS
        while not self._is_stopped:
            resource = self._next()
            try:
                if resource is not None and not self._copy(resource):
                    waiting.append(resource)
            except _FAILURES as error:
                orthanc.LogWarning(f"cleaning: {resource} waits ({type(error).__name__})")
                waiting.append(str(resource))
            if time.monotonic() >= retry_at:
                retry_at = time.monotonic() + RETRY_SECONDS
                for again in waiting:
                    self._queue.put(again)
                waiting.clear()

    def _next(self) -> str | None:
        """The next instance; None if there is none for some time."""
        try:
            return self._queue.get(timeout=RETRY_SECONDS)
        except queue.Empty:
            return None

    def _look_back(self) -> None:
        """Take up copies that waited when Orthanc ended, and objects that came since the first of them."""
        newest = json.loads(self._get("/changes?last"))["Last"]
        since, has_begun = max(0, newest - LOOK_BACK), False
        while not self._is_stopped:
            page = json.loads(self._get(f"/changes?since={since}&limit=1000"))
            for change in page["Changes"]:
                if change["ChangeType"] != "NewInstance":
                    continue
                metadata = self._metadata(change["ID"])
                state = metadata.get(METADATA)
                has_begun = has_begun or state is not None
                if state == WAITING or (has_begun and state is None and self._is_to_copy(metadata)):
                    self._queue.put(change["ID"])
            since = page["Last"]
            if page["Done"]:
                return

    def _is_to_copy(self, metadata: dict[str, str]) -> bool:
        """Whether an instance with these metadata gets a cleaned copy."""
        return action_of(self._settings, metadata.get("SopClassUid", "")) == "Copy"

    def _copy(self, resource: str) -> bool:
        """Store a cleaned copy of an instance; returns False if it must be tried again."""
        if not self._is_to_copy(self._metadata(resource)):
            return True  # or it is deleted
        tags = json.loads(self._get(f"/instances/{resource}/simplified-tags"))
        equipment = tags.get("ContributingEquipmentSequence") or []
        if any(item.get("ManufacturerModelName") == MAKER for item in equipment):
            self._mark(resource, COPY)
            return True
        answer = self._cleaner.clean(self._get(f"/instances/{resource}/file"))
        if answer.outcome is Outcome.CLEANED:
            status, _, said = self._own.request("POST", "/instances", answer.content, 60)
            if status != 200 or json.loads(said)["Status"] not in ("Success", "AlreadyStored"):
                raise ValueError("Orthanc does not store the copy")
            self._mark(json.loads(said)["ID"], COPY)
            self._mark(resource, CLEANED)
            return True
        orthanc.LogWarning(f"cleaning: no copy of {resource}: {answer.reason}")
        if answer.outcome is Outcome.WITHHELD:
            self._mark(resource, WITHHELD)
        return answer.outcome is Outcome.WITHHELD

    def _metadata(self, resource: str) -> dict[str, str]:
        """The metadata of an instance; none for one that is not there."""
        status, _, content = self._own.request("GET", f"/instances/{resource}/metadata?expand", b"", 10)
        found: dict[str, str] = json.loads(content) if status == 200 else {}
        return found

    def _mark(self, resource: str, state: str) -> None:
        """Set what became of a copy. Raises ValueError if Orthanc refuses."""
        status, _, _ = self._own.request(
            "PUT", f"/instances/{resource}/metadata/{METADATA}", state.encode(), 10
        )
        if status != 200:
            raise ValueError("Orthanc does not take the metadata")

    def _get(self, path: str) -> bytes:
        """What Orthanc answers. Raises ValueError for a refusal."""
        status, _, content = self._own.request("GET", path, b"", 60)
        if status != 200:
            raise ValueError(f"status {status}")
        return content


def settings_of(configuration: dict[str, Any]) -> dict[str, Any]:
    """The settings in Orthanc's configuration. Raises ValueError, which names every mistake."""
    given = configuration.get(SECTION)
    if not isinstance(given, dict):
        raise ValueError(f"{SECTION} is missing in Orthanc's configuration (CLEANING.md)")
    settings = {**_DEFAULTS, **given}
    wrong = [f"{name}: unknown" for name in given if name not in _DEFAULTS]
    for name, choices in _CHOICES.items():
        if settings[name] not in choices:
            wrong.append(f"{name}: one of {', '.join(choices)}")
    url = urllib.parse.urlsplit(str(settings["Url"]))
    if url.scheme not in ("http", "https") or not url.hostname or url.query:
        wrong.append("Url: http://host:port or https://host:port")
    seconds = settings["DeadlineSeconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds <= 600:
        wrong.append("DeadlineSeconds: a number up to 600")
    if not (isinstance(settings["Token"], str) and isinstance(settings["Certificate"], str)):
        wrong.append("Token, Certificate: texts")
    actions = {settings[kind] for kind in KINDS}
    if "Copy" in actions and not configuration.get("HttpServerEnabled", True):
        wrong.append("Copy needs Orthanc's own HTTP server: HttpServerEnabled")
    if wrong:
        raise ValueError(f"{SECTION}: " + "; ".join(wrong))
    return settings


def _own_http(configuration: dict[str, Any]) -> Http:
    """This Orthanc by HTTP, on this machine; its certificate need not be for that name."""
    is_tls = bool(configuration.get("SslEnabled"))
    url = f"{'https' if is_tls else 'http'}://127.0.0.1:{configuration.get('HttpPort', 8042)}"
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return Http(url, orthanc.GenerateRestApiAuthorizationToken(), context)


def register() -> None:
    """Register what the settings ask for. Raises ValueError and OSError: then Orthanc does not start."""
    configuration = json.loads(orthanc.GetConfiguration())
    settings = settings_of(configuration)
    cleaner = Cleaner(settings)
    actions = {settings[kind] for kind in KINDS}
    if "Replace" in actions:
        orthanc.RegisterReceivedInstanceCallback(Replacement(settings, cleaner).received)
        orthanc.RegisterIncomingCStoreInstanceFilter(status_of)
    if "Copy" in actions:
        orthanc.RegisterOnChangeCallback(Copies(settings, cleaner, _own_http(configuration)).changed)
    told = ", ".join(f"{kind} {settings[kind]}" for kind in KINDS)
    orthanc.LogWarning(f"cleaning: {told}, by {settings['Url']}")


register()
