"""What a person types of a patient, and of pictures that are uploaded: checked, and in the form of DICOM."""

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Final

from ai_pipeline.images.dates import date_of
from dicom_node.base.errors import FaultyInput

PATIENT: Final = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
"""Keywords of what a person says of a patient."""
FIELDS: Final = (*PATIENT, "AccessionNumber", "StudyDescription", "StudyDate", "Modality", "View")
"""Names of the fields by which a person describes pictures: DICOM keywords, and View for View Position."""
MODALITIES: Final = ("US", "DX", "CR", "OT")
VIEWS: Final = ("", "PA", "AP", "LL", "RL")
"""View Position (0018,5101) of a chest film: from behind, from in front, from a side."""
SEXES: Final = ("", "F", "M", "O")
_LONGEST: Final = {  # characters, PS3.5 6.2; of a name: in each of its groups
    **dict.fromkeys(("PatientID", "IssuerOfPatientID", "PatientName", "StudyDescription"), 64),
    "AccessionNumber": 16,
}
_CHOICES: Final = {"PatientSex": SEXES, "Modality": MODALITIES, "View": VIEWS}
_FIRST_DAYS: Final = {"PatientBirthDate": date(1880, 1, 1), "StudyDate": date(1895, 11, 8)}
"""Nobody alive was born before the one, and no film was made before the other."""
_GROUPS, _COMPONENTS = 3, 5  # of a name, PS3.5 6.2.1
_COMMAS: Final = re.compile("[,，、]")


def checked(fields: Mapping[str, str], needed: Sequence[str] = ()) -> dict[str, str]:
    """The values of these ``fields`` (DICOM keywords and View) that a person typed, in the form of their VR.

    ``needed``: fields that must not be empty. Raises FaultyInput that names all mistakes.
    """
    wrong = {name: "is missing" for name in needed if not fields.get(name)}
    values = dict(fields)
    for name, text in fields.items():
        if name in _FIRST_DAYS and text:
            day, first, today = date_of(text), _FIRST_DAYS[name], datetime.now().astimezone().date()
            if day is None or not first <= day <= today:
                wrong[name] = f"is no day from {first} to today"
            else:
                values[name] = f"{day:%Y%m%d}"
        elif name in _CHOICES and text not in _CHOICES[name]:
            wrong.setdefault(name, f"is one of {', '.join(filter(None, _CHOICES[name]))}")
        elif name in _LONGEST and (fault := _fault_of_text(name, text)):
            wrong[name] = fault
        elif name == "PatientName":
            values[name] = as_pn(text)
    if not wrong and (born := values.get("PatientBirthDate")) and (values.get("StudyDate") or born) < born:
        wrong["StudyDate"] = "is before the birth date"
    if wrong:
        raise FaultyInput("; ".join(f"{name} {fault}" for name, fault in wrong.items()))
    return values


def as_pn(text: str) -> str:
    """Return a name as a person types it in the form of VR PN (PS3.5 6.2.1): "Family, Given", as the console
    shows names, becomes "Family^Given", in each group. One with a caret has that form, and stays.
    """
    return "=".join(
        group
        if "^" in group
        else "^".join(" ".join(part.split()) for part in _COMMAS.split(group)).rstrip("^")
        for group in text.split("=")
    )


def _fault_of_text(name: str, text: str) -> str:
    """Why this text cannot be the value of the attribute ``name`` (VR LO, SH or PN); "" if it can."""
    groups = text.split("=") if name == "PatientName" else [text]
    longest = _LONGEST[name]
    if max(map(len, groups)) > longest:
        return f"has more than {longest} characters"
    if not text.isprintable() or "\\" in text:
        return "has a backslash, or characters that cannot be seen"
    if len(groups) > _GROUPS or any(group.count("^") >= _COMPONENTS for group in groups):
        return 'is no name of DICOM: "Family^Given"'
    if name == "PatientName" and any(
        "^" not in group and len(_COMMAS.findall(group)) > 1 for group in groups
    ):
        return 'has several commas: write "Family, Given" or "Family^Given^Middle^Prefix^Suffix"'
    return ""
