"""DICOMweb for viewers, enabled by ``console.dicomweb``: QIDO-RS and WADO-RS (PS3.18 10.4 and 10.6).

A viewer can search for studies, and read received objects and the node's results. Nothing is transcoded:
objects and frames are sent as they are stored.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from fastapi import APIRouter, HTTPException, Query, Response
from fastapi import Path as InPath
from fastapi.responses import JSONResponse, StreamingResponse

from dicom_console.views import dicomweb, search
from dicom_console.views.dicomweb import HeldObject
from dicom_console.views.search import Order, Search
from dicom_console.web.access import API, Asked, Visit, needs
from dicom_node.errors import NotFound
from dicom_node.model.roles import UserRole
from dicom_node.services import audit

router = APIRouter(prefix=f"{API}dicomweb")

Frames = Annotated[str, InPath(pattern=r"^[0-9]{1,5}(,[0-9]{1,5}){0,99}$")]
Limit = Annotated[int, Query(ge=1, le=200)]
Offset = Annotated[int, Query(ge=0, le=10_000)]
_STUDY, _SERIES = "/studies/{study}", "/studies/{study}/series/{series}"
_INSTANCE = f"{_SERIES}/instances/{{instance}}"
_KEYS: Final = {
    "00100010": "PatientName",
    "00100020": "PatientID",
    "00080050": "AccessionNumber",
    "00080020": "StudyDate",
    "00080061": "ModalitiesInStudy",
    "0020000D": "StudyInstanceUID",
}
_CONTROLS = {"limit", "offset", "includefield", "fuzzymatching"}
_DATE = re.compile(r"(\d{8})?(-?)(\d{8})?")
_JSON = "application/dicom+json"
_MEDIA: Final = {  # of frames (PS3.18 Table 8.7.3-5)
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.51": "image/jpeg",
    "1.2.840.10008.1.2.4.57": "image/jpeg",
    "1.2.840.10008.1.2.4.70": "image/jpeg",
    "1.2.840.10008.1.2.4.80": "image/jls",
    "1.2.840.10008.1.2.4.81": "image/jls",
    "1.2.840.10008.1.2.4.90": "image/jp2",
    "1.2.840.10008.1.2.4.91": "image/jp2",
    "1.2.840.10008.1.2.5": "image/dicom-rle",
}
_CHUNK = 2**20


@router.get("/studies")
@needs(UserRole.VIEWER)
def find_studies(asked: Asked, limit: Limit = 100, offset: Offset = 0) -> Response:
    """QIDO-RS: studies by name (whole words), Patient ID, accession number, date, modality or UID."""
    given = {_KEYS.get(key.upper(), key): value for key, value in asked.request.query_params.items()}
    unknown = given.keys() - set(_KEYS.values()) - _CONTROLS
    audit.note_list(asked.site.database, asked.person, "dicomweb")
    if uids := given.get("StudyInstanceUID", ""):
        found = uids.split(",")[:limit]
    else:
        found = _found(asked, _search(asked, given), offset, limit)
    headers = {"Warning": '299 - "Some keys of the query are not supported"'} if unknown else {}
    answers = [answer for uid in found if (answer := _study(asked, uid))]
    return JSONResponse(answers, media_type=_JSON, headers=headers)


@router.get(f"{_STUDY}/series")
@needs(UserRole.VIEWER)
def find_series(asked: Asked) -> Response:
    """QIDO-RS: the series of a study."""
    found = []
    for series, held in dicomweb.by_series(_held(asked)).items():
        said = _attributes(asked, held[0], ("StudyInstanceUID", *dicomweb.OF_SERIES))
        place = url(asked, f"/studies/{held[0].study_uid}/series/{series}")
        found.append(said | place | value("00201209", "IS", len(held)))
    return JSONResponse(found, media_type=_JSON)


@router.get(f"{_STUDY}/instances")
@router.get(f"{_SERIES}/instances")
@needs(UserRole.VIEWER)
def find_instances(asked: Asked) -> Response:
    """QIDO-RS: the instances of a study or a series."""
    keywords = ("StudyInstanceUID", "SeriesInstanceUID", *dicomweb.OF_INSTANCE)
    found = [
        _attributes(asked, one, keywords)
        | url(asked, f"/studies/{one.study_uid}/series/{one.series_uid}/instances/{one.uid}")
        for one in _held(asked)
    ]
    return JSONResponse(found, media_type=_JSON)


@router.get(f"{_STUDY}/metadata")
@router.get(f"{_SERIES}/metadata")
@router.get(f"{_INSTANCE}/metadata")
@needs(UserRole.VIEWER)
def metadata(asked: Asked) -> Response:
    """WADO-RS: all attributes but Pixel Data."""
    found = [dicomweb.metadata(path) for path in _files(asked, _held(asked))]
    return JSONResponse(found, media_type=_JSON)


@router.get(_STUDY)
@router.get(_SERIES)
@router.get(_INSTANCE)
@needs(UserRole.VIEWER)
def retrieve(asked: Asked) -> Response:
    """WADO-RS: the objects as they are stored."""
    files = _files(asked, _held(asked))
    if _wanted(asked):
        _check_syntax(asked, map(dicomweb.transfer_syntax, files))
    return _parts("application/dicom", map(_chunks, files))


@router.get(f"{_INSTANCE}/frames/{{frames}}")
@needs(UserRole.VIEWER)
def retrieve_frames(asked: Asked, frames: Frames) -> Response:
    """WADO-RS: frames as they are stored, each a part."""
    [path] = _files(asked, _held(asked)[:1])
    syntax = dicomweb.transfer_syntax(path)
    _check_syntax(asked, [syntax])
    found = dicomweb.frames(path, [int(one) for one in frames.split(",")])
    about = f"{_MEDIA.get(syntax, 'application/octet-stream')}; transfer-syntax={syntax}"
    return _parts(about, ([frame] for frame in found))


def _search(asked: Visit, given: Mapping[str, str]) -> Search:
    dates = _DATE.fullmatch(given.get("StudyDate", ""))
    if dates is None:
        raise HTTPException(
            400, "StudyDate is YYYYMMDD, or two dates with a - between them, of which one may lack."
        )
    first, is_range, last = dates[1] or "", dates[2], dates[3] or ""
    return Search(
        patient=given.get("PatientID", "")[:64],
        words=search.name_words(
            asked.site.settings, re.sub(r"[*^?=]", " ", given.get("PatientName", ""))[:64]
        ),
        accession=given.get("AccessionNumber", "")[:16],
        modality=given.get("ModalitiesInStudy", "")[:16],
        since=first,
        until=last if is_range else first,
        order=Order.DATE,
    )


def _found(asked: Visit, wanted: Search, offset: int, limit: int) -> list[str]:
    """The UIDs of these studies, from the pages of the list."""
    found: list[str] = []
    after: int | None = None
    with asked.site.database.read() as session:
        while len(found) < offset + limit:
            rows, after = search.search(session, wanted, after)
            found += [str(row["study_instance_uid"]) for row in rows if row["study_instance_uid"]]
            if after is None:
                break
    return found[offset : offset + limit]


def _study(asked: Visit, uid: str) -> dict[str, Any]:
    """The answer of QIDO-RS on a study; empty where nothing of it may be seen."""
    try:
        with asked.site.database.read() as session:
            held = dicomweb.objects(session, uid)
        said = _attributes(asked, held[0], dicomweb.OF_STUDY)
    except NotFound:
        return {}
    series = dicomweb.by_series(held)
    firsts = [_attributes(asked, some[0], ("Modality",)) for some in series.values()]
    modalities = sorted({str(one) for first in firsts for one in first.get("00080060", {}).get("Value", ())})
    counts = value("00201206", "IS", len(series)) | value("00201208", "IS", len(held))
    return said | counts | value("00080061", "CS", *modalities) | url(asked, f"/studies/{uid}")


def _held(asked: Visit) -> list[HeldObject]:
    """The objects that the address names; the audit says that the person sees the study. Raises NotFound."""
    named = {name: asked.request.path_params.get(name, "") for name in ("study", "series", "instance")}
    with asked.site.database.read() as session:
        found = dicomweb.objects(session, **named)
    audit.note_sight(asked.site.database, asked.person, found[0].study)
    return found


def _files(asked: Visit, held: Iterable[HeldObject]) -> list[Path]:
    """Their files, on this machine. Raises NotFound."""
    with asked.site.database.read() as session:
        return [dicomweb.file_of(session, asked.site.settings, one) for one in held]


def _attributes(asked: Visit, held: HeldObject, keywords: Iterable[str]) -> dict[str, Any]:
    [path] = _files(asked, [held])
    return dicomweb.attributes(path, tuple(keywords))


def value(tag: str, vr: str, *values: object) -> dict[str, Any]:
    """An attribute in the DICOM JSON Model (PS3.18 F.2)."""
    return {tag: {"vr": vr, "Value": list(values)}}


def url(asked: Visit, path: str) -> dict[str, Any]:
    """The Retrieve URL of the object at ``path``, relative to the requested address."""
    return value("00081190", "UR", f"{str(asked.request.base_url).rstrip('/')}{router.prefix}{path}")


def _wanted(asked: Visit) -> set[str]:
    """The transfer syntaxes that the client takes; none where it takes each."""
    found = set(re.findall(r'transfer-syntax="?([0-9.*]+)', asked.request.headers.get("accept", "")))
    return set() if "*" in found else found


def _check_syntax(asked: Visit, stored: Iterable[str]) -> None:
    wanted = _wanted(asked)
    if wanted and (others := set(stored) - wanted):
        raise HTTPException(
            406, f"It is stored in {min(others)}, and nothing is transcoded: ask for transfer-syntax=*."
        )


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            yield chunk


def _parts(media: str, parts: Iterable[Iterable[bytes]]) -> Response:
    """Multipart (RFC 2387) of these; each is read as the client takes it."""
    boundary = secrets.token_hex(16)

    def body() -> Iterator[bytes]:
        for part in parts:
            yield f"\r\n--{boundary}\r\nContent-Type: {media}\r\n\r\n".encode()
            yield from part
        yield f"\r\n--{boundary}--\r\n".encode()

    kind = media.partition(";")[0]
    return StreamingResponse(body(), media_type=f'multipart/related; type="{kind}"; boundary={boundary}')
