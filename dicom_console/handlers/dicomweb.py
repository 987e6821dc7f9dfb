"""DICOMweb for viewers, enabled by ``console.dicomweb``: QIDO-RS and WADO-RS (PS3.18 10.4 and 10.6).

A viewer can search for studies, series and instances, and read received objects and the node's results.
Objects and frames are sent as they are stored, never transcoded; a frame is also there as a picture.
At the end: the media types that a client accepts (RFC 9110 12.5.1), with DICOMweb's parameters (PS3.18 8.7).
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import JSONResponse, StreamingResponse
from pydicom.uid import UID, ExplicitVRLittleEndian

from dicom_console.views import dicomweb, pictures, qido
from dicom_console.views.dicomweb import HeldObject
from dicom_console.views.pictures import Shown
from dicom_console.views.qido import Level
from dicom_console.web.access import API, needs
from dicom_console.web.faces import Asked, Visit
from dicom_node.errors import NotFound
from dicom_node.model.roles import UserRole
from dicom_node.services import audit

router = APIRouter(prefix=f"{API}dicomweb")

Quality = Annotated[int, Query(ge=1, le=100)]
_MOST, _MOST_OF_STUDY, _USUAL = 1000, 10_000, 100
"""Answers of one search at most, within one study at most, and of all studies where no limit is given."""
Limit = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
Offset = Annotated[int, Query(ge=0, le=2**31 - 1)]
_STUDY, _SERIES = "/studies/{study}", "/studies/{study}/series/{series}"
_INSTANCE = f"{_SERIES}/instances/{{instance}}"
_JSON: Final = ("application/dicom+json", "application/json")
_MEDIA: Final = {  # of frames (PS3.18 Table 8.7.3-5)
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.4.92": "image/jpx",
    "1.2.840.10008.1.2.4.93": "image/jpx",
    "1.2.840.10008.1.2.4.110": "image/jxl",
    "1.2.840.10008.1.2.4.111": "image/jxl",
    "1.2.840.10008.1.2.4.112": "image/jxl",
    "1.2.840.10008.1.2.4.201": "image/jphc",
    "1.2.840.10008.1.2.4.202": "image/jphc",
    "1.2.840.10008.1.2.4.203": "image/jphc",
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}
_SAMPLES: Final = "application/octet-stream"
_CHUNK = 2**20
_RANGES = 50  # ranges of one request that are read
_RANGE = re.compile(r'(?:[^,"]|"[^"]*")+')
_PARAMETER = re.compile(r';\s*([\w-]+)\s*=\s*(?:"([^"]*)"|([^;"\s]*))')


@router.get("/studies")
@needs(UserRole.VIEWER)
def find_studies(asked: Asked, limit: Limit = None, offset: Offset = 0) -> Response:
    """QIDO-RS: studies by any attribute of patient or study, or by the UID of what they hold."""
    return _search(asked, Level.STUDY, limit, offset)


@router.get("/series")
@router.get(f"{_STUDY}/series")
@needs(UserRole.VIEWER)
def find_series(asked: Asked, limit: Limit = None, offset: Offset = 0) -> Response:
    """QIDO-RS: series of all studies or of one."""
    return _search(asked, Level.SERIES, limit, offset)


@router.get("/instances")
@router.get(f"{_STUDY}/instances")
@router.get(f"{_SERIES}/instances")
@needs(UserRole.VIEWER)
def find_instances(asked: Asked, limit: Limit = None, offset: Offset = 0) -> Response:
    """QIDO-RS: instances of all studies, of one study or of one series."""
    return _search(asked, Level.INSTANCE, limit, offset)


@router.get(f"{_STUDY}/metadata")
@router.get(f"{_SERIES}/metadata")
@router.get(f"{_INSTANCE}/metadata")
@needs(UserRole.VIEWER)
def metadata(asked: Asked) -> Response:
    """WADO-RS: all attributes but Pixel Data."""
    media = one_of(asked.request, *_JSON)
    found = [dicomweb.metadata(path) for path in _files(asked, _held(asked))]
    return JSONResponse(found, media_type=media)


@router.get(_STUDY)
@router.get(_SERIES)
@router.get(_INSTANCE)
@needs(UserRole.VIEWER)
def retrieve(asked: Asked) -> Response:
    """WADO-RS: the objects as they are stored."""
    media = "application/dicom"
    accepted = [one for one in ranges(asked.request) if one.takes(media)]
    files = _files(asked, _held(asked))
    syntaxes = [dicomweb.transfer_syntax(path) for path in files]
    _check_accepted(accepted, media, syntaxes)
    return _parts(accepted, media, syntaxes, map(_chunks, files))


@router.get(f"{_INSTANCE}/frames/{{frames}}")
@needs(UserRole.VIEWER)
def retrieve_frames(
    asked: Asked, frames: Annotated[str, InPath(pattern=r"^[0-9]{1,5}(,[0-9]{1,5}){0,99}$")]
) -> Response:
    """WADO-RS: frames as they are stored, each a part."""
    [path] = _files(asked, _held(asked)[:1])
    syntax = dicomweb.transfer_syntax(path)
    if not syntax.is_encapsulated:  # samples in Little Endian: the same in all its syntaxes
        syntax = ExplicitVRLittleEndian
    media = _MEDIA.get(syntax, _SAMPLES)
    # Cornerstone asks for octet-stream in any transfer syntax, and takes each codestream.
    accepted = [
        one
        for one in ranges(asked.request)
        if one.takes(media) or (one.media == _SAMPLES and one.syntax == "*")
    ]
    _check_accepted(accepted, media, [syntax])
    numbers = [int(one) for one in frames.split(",")]
    found = dicomweb.frames(path, numbers)
    return _parts(accepted, media, [syntax] * len(numbers), ([frame] for frame in found))


@router.get(f"{_INSTANCE}/rendered")
@needs(UserRole.VIEWER)
def rendered_instance(asked: Asked, quality: Quality = 90) -> Response:
    """WADO-RS: the first frame as first displayed, JPEG or PNG of at most 1,600 pixels a side."""
    return _rendered(asked, 1, quality)


@router.get(f"{_INSTANCE}/frames/{{frame}}/rendered")
@needs(UserRole.VIEWER)
def rendered_frame(
    asked: Asked, frame: Annotated[int, InPath(ge=1, le=99_999)], quality: Quality = 90
) -> Response:
    """WADO-RS: this frame as first displayed, JPEG or PNG of at most 1,600 pixels a side."""
    return _rendered(asked, frame, quality)


def _rendered(asked: Visit, frame: int, quality: int) -> Response:
    media = one_of(asked.request, "image/jpeg", "image/png")
    [held, *_] = _held(asked)
    [path] = _files(asked, [held])
    about = Shown(path, held.study, "image"), frame
    data = pictures.png(*about) if media == "image/png" else pictures.jpeg(*about, quality)
    ignored = sorted({"viewport", "window", "annotation", "iccprofile"} & asked.request.query_params.keys())
    return Response(data, media_type=media, headers=_warnings(_ignored(ignored)))


def _search(asked: Visit, level: Level, limit: int | None, offset: int) -> Response:
    media = one_of(asked.request, *_JSON)
    study, series = (asked.request.path_params.get(name, "") for name in ("study", "series"))
    if study:
        _held(asked)
    else:
        audit.note_list(asked.site.database, asked.person, "dicomweb")
    query = qido.query_of(level, asked.request.query_params.multi_items())
    most, usual = (_MOST_OF_STUDY, _MOST_OF_STUDY) if study else (_MOST, _USUAL)
    found = asked.read(qido.find, asked.settings, query, min(limit or usual, most), offset, (study, series))
    answers = [_answer(asked, objects, query) for objects in found.objects]
    is_literal = query.is_fuzzy and not query.by_words
    warnings = {  # what a client must know of the answers (PS3.18 8.3.4)
        _ignored(query.ignored): True,
        "PatientName was matched by its whole words, in any order and case": query.by_words,
        "The fuzzymatching parameter is not supported. Only literal matching has been performed": is_literal,
        "There are additional results that can be requested": found.more,
        "Not all studies were searched: name more keys": not found.whole,
    }
    headers = _warnings(*(text for text, applies in warnings.items() if applies))
    return JSONResponse(answers, media_type=media, headers=headers)


def _ignored(names: Sequence[str]) -> str:
    """Names from outside: only signs that a header may have."""
    shown = sorted({one for one in names if re.fullmatch(r"[\w.]{1,64}", one, re.ASCII)})
    others = ["others"] if len(shown) < len({*names}) else []
    return f"Not supported here and ignored: {', '.join([*shown[:20], *others])}" if names else ""


def _warnings(*texts: str) -> dict[str, str]:
    """RFC 7234 5.5: several warnings in one header."""
    given = [f'299 - "{text}"' for text in texts if text]
    return {"Warning": ", ".join(given)} if given else {}


def _answer(asked: Visit, objects: Sequence[HeldObject], query: qido.Query) -> dict[str, Any]:
    """A study, series or instance (PS3.18 Tables 10.6.3-3 to 10.6.3-5).

    The attributes are those of its first object; where that cannot be read, it has its UIDs only.
    """
    first = objects[0]
    try:
        [path] = _files(asked, [first])
        keywords = query.keywords
        said = dicomweb.metadata(path) if keywords is None else dicomweb.attributes(path, keywords)
    except NotFound:
        said = {}
    place = f"/studies/{first.study_uid}"
    said |= value("0020000D", "UI", first.study_uid)
    if query.level is Level.STUDY:
        modalities = asked.read(qido.modalities, asked.settings, first.study)
        said |= value("00080061", "CS", *modalities)
        said |= value("00201206", "IS", len(dicomweb.by_series(objects)))
        said |= value("00201208", "IS", len(objects))
    else:
        place += f"/series/{first.series_uid}"
        said |= value("0020000E", "UI", first.series_uid)
    if query.level is Level.SERIES:
        said |= value("00201209", "IS", len(objects))
    if query.level is Level.INSTANCE:
        place += f"/instances/{first.uid}"
        said |= value("00080018", "UI", first.uid)
    said |= value("00080056", "CS", "ONLINE") | url(asked, place)
    return dict(sorted(said.items()))


def _held(asked: Visit) -> list[HeldObject]:
    """The objects that the address names; the audit says that the person sees the study. Raises NotFound."""
    named = {name: asked.request.path_params.get(name, "") for name in ("study", "series", "instance")}
    found = asked.read(dicomweb.objects, **named)
    audit.note_sight(asked.site.database, asked.person, found[0].study)
    return found


def _files(asked: Visit, held: Iterable[HeldObject]) -> list[Path]:
    """Their files, on this machine. Raises NotFound."""
    with asked.site.database.read() as session:
        return [dicomweb.file_of(session, asked.settings, one) for one in held]


def value(tag: str, vr: str, *values: object) -> dict[str, Any]:
    """An attribute in the DICOM JSON Model (PS3.18 F.2)."""
    return {tag: {"vr": vr, "Value": list(values)}}


def url(asked: Visit, path: str) -> dict[str, Any]:
    """The Retrieve URL of the object at ``path``: at the console's own address, else at the requested one.

    A proxy that ends TLS asks by another scheme and host than its viewers.
    """
    return value(
        "00081190",
        "UR",
        f"{str(asked.site.settings.console.url or asked.request.base_url).rstrip('/')}{router.prefix}{path}",
    )


def _check_accepted(accepted: Sequence[MediaRange], media: str, stored: Iterable[UID]) -> None:
    """Raise HTTPException 406 unless each of these is accepted as it is stored.

    ``accepted``: the ranges that take this media type.
    """
    syntaxes = {one.syntax for one in accepted}
    others = set() if syntaxes & {"", "*"} else set(stored) - syntaxes
    if others:
        raise HTTPException(
            406,
            f"It is stored as {media} in {min(others)}, and nothing is transcoded: "
            "accept that type, with transfer-syntax=*.",
        )


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _parts(
    accepted: Sequence[MediaRange], media: str, syntaxes: Sequence[UID], parts: Iterable[Iterable[bytes]]
) -> Response:
    """Multipart (RFC 2387) of these, each with its transfer syntax; each is read as the client takes it.

    A client that takes no multipart gets one part alone. Raises HTTPException 406 if there are several.
    """
    kinds = [f"{media}; transfer-syntax={syntax}" for syntax in syntaxes]
    best = max(one.weight for one in accepted)
    preferred = [one for one in accepted if one.weight == best] if len(kinds) == 1 else accepted
    if not any(one.is_multipart or one.media == "*/*" for one in preferred):
        if len(kinds) > 1:
            raise HTTPException(406, "Several parts are sent as multipart/related only.")
        return StreamingResponse((piece for part in parts for piece in part), media_type=kinds[0])
    boundary = secrets.token_hex(16)

    def body() -> Iterator[bytes]:
        for kind, part in zip(kinds, parts, strict=True):
            yield f"\r\n--{boundary}\r\nContent-Type: {kind}\r\n\r\n".encode()
            yield from part
        yield f"\r\n--{boundary}--\r\n".encode()

    return StreamingResponse(body(), media_type=f'multipart/related; type="{media}"; boundary={boundary}')


@dataclass(frozen=True, slots=True)
class MediaRange:
    """One range of Accept. ``media``: its media type, of a multipart one that of its parts, in lower case.

    ``syntax``: UID of the transfer syntax, ``*`` for each, "" where it names none. ``weight``: 0 to 1.
    """

    media: str
    is_multipart: bool
    syntax: str
    weight: float = 1.0

    def takes(self, media: str) -> bool:
        """Whether this media type is in the range."""
        return self.media in ("*/*", media, f"{media.partition('/')[0]}/*")


def ranges(request: Request) -> list[MediaRange]:
    """What the request accepts, by its query parameter ``accept`` or else its header; without both, all."""
    return [one for one in _given(request) if one.weight]


def one_of(request: Request, *offered: str) -> str:
    """Of these media types the one preferred, else the first. Raises HTTPException 406: none is accepted."""
    given = [one for one in _given(request) if not one.is_multipart]
    weights = {media: _weight(given, media) for media in offered}
    best = max(offered, key=weights.__getitem__)
    if not weights[best]:
        raise HTTPException(406, f"This is sent as {' or '.join(offered)} only.")
    return best


def _weight(given: Sequence[MediaRange], media: str) -> float:
    """Of the most specific range that takes this media type (RFC 9110 12.5.1)."""
    taking = [one for one in given if one.takes(media)]
    return max(taking, key=lambda one: (-one.media.count("*"), one.weight)).weight if taking else 0.0


def _given(request: Request) -> list[MediaRange]:
    named = request.query_params.get("accept", "").replace(" ", "+")  # a plus sign that was not escaped
    given = named or ", ".join(request.headers.getlist("accept"))
    return list(_parsed(given)) if given.strip() else [MediaRange("*/*", False, "")]


def _parsed(given: str) -> Iterator[MediaRange]:
    for found in _RANGE.findall(given)[:_RANGES]:
        media = found.partition(";")[0].strip().lower()
        parameters = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(found)}
        is_multipart = media.startswith("multipart/")
        if is_multipart:
            media = parameters.get("type", "*/*").lower()
        quality = parameters.get("q", "")
        weight = float(quality) if re.fullmatch(r"[01](\.[0-9]*)?", quality) else 1.0
        if media:
            yield MediaRange(media, is_multipart, parameters.get("transfer-syntax", ""), weight)
