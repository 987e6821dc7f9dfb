"""Modules and attributes of IODs (PS3.3) and codes of body parts (PS3.16 Annex L): tables of the standard.

They are private in highdicom. Only this module imports them: highdicom is pinned below 0.29, and
``tests/unit/results`` show what a newer version changed.
"""

import re
from collections.abc import Iterator
from functools import cache
from typing import Final

from highdicom._standard_utils import (
    check_required_attributes,
    get_anatomic_region_map,
    get_iod_module_map,
    get_module_attribute_map,
    get_sop_class_iod_map,
    is_attribute_in_iod,
)
from highdicom.sr import (
    CodedConcept,
)
from pydicom.dataset import Dataset

_OTHER_WORDS: Final = {
    "UPPERLIMB": ("ARM", "UPEXM", "UPPEREXTREMITY"),
    "LOWERLIMB": ("LEG", "LOWEXM", "LOWEREXTREMITY"),
    "FOREARM": ("LOWERARM",),
    "THIGH": ("UPPERLEG",),
    "CSPINE": ("CERVICALSPINE",),
    "TSPINE": ("THORACICSPINE", "DORSALSPINE"),
    "LSPINE": ("LUMBARSPINE",),
    "SSPINE": ("SACRUM",),
    "SINUS": ("SINUSES", "PARANASALSINUS"),
    "PELVIS": ("FETUS",),  # as of placenta and amniotic fluid
}


def is_known(sop_class_uid: str) -> bool:
    """Whether highdicom knows the modules of this SOP class, because it is in the present standard."""
    return get_sop_class_iod_map().get(sop_class_uid) in get_iod_module_map()


@cache
def has_frames(sop_class_uid: str) -> bool:
    """Whether an object of this SOP class, which must be known (``is_known``), may have several frames."""
    return bool(is_attribute_in_iod("NumberOfFrames", sop_class_uid))


@cache
def has_frame_anatomy(sop_class_uid: str) -> bool:
    """Whether frames of objects of this SOP class have body part and side each (PS3.3 C.7.6.16.2.8)."""
    return is_known(sop_class_uid) and is_attribute_in_iod("FrameAnatomySequence", sop_class_uid)


def usages(sop_class_uid: str) -> dict[str, str]:
    """The usage (M, C or U) of each module of a known SOP class, by highdicom's names of modules
    ("general-study").
    """
    modules = get_iod_module_map()[get_sop_class_iod_map()[sop_class_uid]]
    return {module["key"]: module["usage"] for module in modules}


def mandatory_modules(sop_class_uid: str) -> list[str]:
    """The names of the modules that are mandatory (usage M) in a known SOP class."""
    return [module for module, usage in usages(sop_class_uid).items() if usage == "M"]


def attributes_of(module: str) -> Iterator[tuple[tuple[str, ...], str, str]]:
    """Yield (keywords of the enclosing sequences, keyword, Type) for each attribute of a module."""
    for item in get_module_attribute_map()[module]:
        yield tuple(item["path"]), item["keyword"], item["type"]


def missing_attribute(dataset: Dataset, module: str) -> str:
    """A sentence on the first Type 1 or 2 attribute of the module that the object lacks; "" if it lacks
    none.
    """
    try:
        check_required_attributes(dataset, module, check_optional_sequences=False)
    except AttributeError as error:
        return f"{error} (module {module})"
    return ""


def region_code(body_part: object) -> CodedConcept | None:
    """The code of a Body Part Examined (0018,0015) in any usual spelling; None if it has no code."""
    word, known = re.sub("[ _]", "", str(body_part or "").upper()), body_parts()
    return known.get(word) or known.get(word.removesuffix("S"))


def body_part_word(code_value: object) -> str:
    """The Body Part Examined (PS3.16 Annex L) for a SNOMED CT code value; "" if there is none.

    If two words have one code, it is the word that names no endoscopy.
    """
    words = [part for part, code in body_parts().items() if code.value == code_value]
    return min(words, key=lambda word: word.startswith("ENDO"), default="")


@cache
def body_parts() -> dict[str, CodedConcept]:
    """The codes of body parts by Body Part Examined; words of former editions and of devices come last."""
    known = {part: code for part, (code, *_) in get_anatomic_region_map().items()}
    known["SINUS"] = CodedConcept("2095001", "SCT", "Paranasal sinus")  # PS3.16 CID 4031
    return known | {word: known[part] for part, words in _OTHER_WORDS.items() for word in words}
