"""Groups of age, sex and station that assessed findings are of, and how right the AI was in each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ai_pipeline.contract import Decision
from dicom_node.model.kinds import ReaderVerdict
from dicom_node.monitoring.drift import wilson
from dicom_node.services.console.studies.viewer import images_of
from dicom_node.store.accounts import Feedback
from dicom_node.store.views import View

_AGES = ((18, "0-17"), (40, "18-39"), (65, "40-64"), (80, "65-79"), (1000, "80 and over"))  # years, below
_COLUMNS: Mapping[str, Any] = {
    "age": Feedback.age_group,
    "sex": Feedback.sex,
    "station": Feedback.station,
}
_THERE = (ReaderVerdict.ACCEPTED, ReaderVerdict.MODIFIED)
_SAID = ("PatientBirthDate", "PatientAge", "PatientSex", "StudyDate")


def of_report(session: Session, study: int, report: Path) -> dict[str, str]:
    """Age group, sex (M, F, O) and station of a report's study; "" for what nobody says.

    The station is Station Name (0008,1010) of the images, or the AE title that sent them; "several" of many.
    """
    header = dcmread(report, stop_before_pixels=True, specific_tags=list(_SAID))
    sex = str(header.get("PatientSex") or "")
    images = images_of(session, study)
    stations = {str(row.attributes.get("StationName") or row.calling_ae)[:64] for row in images}
    return {
        "age_group": _age_group(header),
        "sex": sex if sex in ("M", "F", "O") else "",
        "station": stations.pop() if len(stations) == 1 else "several" if stations else "",
    }


def counts(session: Session, model: str, version: str) -> list[View]:
    """By age group, sex and station, and by finding: what readers said of it where the AI called it present.

    Only what somebody judged; ``ppv`` with its 95 % interval (Wilson).
    """
    found: list[View] = []
    for name, column in _COLUMNS.items():
        chosen = select(column, Feedback.finding, Feedback.verdict, func.count()).where(
            Feedback.model == model, Feedback.version == version, Feedback.decision == Decision.PRESENT.value
        )
        groups: dict[tuple[str, str], list[int]] = {}
        for group, finding, verdict, number in session.execute(
            chosen.group_by(column, Feedback.finding, Feedback.verdict)
        ):
            groups.setdefault((group, finding), [0, 0])[0 if verdict in _THERE else 1] += number
        found += [
            {
                "by": name,
                "group": group,
                "finding": finding,
                "there": there,
                "rejected": rejected,
                "ppv": wilson(there, there + rejected),
            }
            for (group, finding), (there, rejected) in sorted(groups.items())
        ]
    return found


def _age_group(header: Dataset) -> str:
    """By Patient's Birth Date and Study Date, else by Patient's Age (PS3.5 6.2, AS: 045Y, 006M)."""
    born, day = str(header.get("PatientBirthDate") or ""), str(header.get("StudyDate") or "")
    age = str(header.get("PatientAge") or "")
    if born.isdecimal() and day.isdecimal() and len(born) == len(day) == 8:
        years = (int(day) - int(born)) // 10_000
    elif age[:3].isdecimal() and age[3:] in ("Y", "M", "W", "D"):
        years = int(age[:3]) if age.endswith("Y") else int(age[:3]) // {"M": 12, "W": 52, "D": 365}[age[3:]]
    else:
        return ""
    return next((name for below, name in _AGES if 0 <= years < below), "")
