"""The form in which a person chooses patient and versions before a study leaves quarantine."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from dicom_node.store.views import View

_PICK = re.compile(r"[0-9]{1,8}(-[0-9]{1,8})?")


def questions(rows: Sequence[View]) -> list[View]:
    """The options of ``services.study_versions``, grouped by question, questions about patients first."""
    found: dict[tuple[Any, str], list[View]] = {}
    for row in rows:
        found.setdefault((row["if_taken"], row["sop_instance_uid"]), []).append(row)
    return [
        {
            "choose": options[0]["choose"],
            "if_taken": if_taken,
            "sop_instance_uid": uid,
            "options": options,
            "differs": sorted({word for option in options for word in option["differs"]}),
        }
        for (if_taken, uid), options in found.items()
    ]


def applicable(picked: Collection[str]) -> list[int]:
    """The picked numbers, without answers that belong to a patient who was not picked (a form sends both).

    Each answer is "7", or "7-2" if it counts only together with answer 2.
    """
    pairs = [pick.partition("-") for pick in picked if _PICK.fullmatch(pick)]
    taken = {number for number, _, _ in pairs}
    return sorted({int(number) for number, _, if_taken in pairs if not if_taken or if_taken in taken})
