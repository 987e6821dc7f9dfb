"""What a person chooses before a study leaves quarantine, as questions of a form."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from dicom_node.store.views import View


def questions(rows: Sequence[View]) -> list[View]:
    """The options of ``services.study_versions`` by question, those about patients first."""
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


def applicable(rows: Sequence[View], picked: Collection[int]) -> list[int]:
    """What was picked, without answers about images of a patient who was not: a form sends those too."""
    not_asked = {row["number"] for row in rows if row["if_taken"] and row["if_taken"] not in picked}
    return sorted(set(picked) - not_asked)
