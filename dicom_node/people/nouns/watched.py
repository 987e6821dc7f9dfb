"""What an admin watches: events, associations, and decisions that were lost with the database."""

import shlex
from typing import Final

from dicom_node.base.kinds import UserRole
from dicom_node.people.nouns import BECAUSE, OF_STUDY, SINCE, Input, Noun, Verb, limit, moment
from dicom_node.people.nouns.columns import PrintedRow, details, fields, times, uid, yes_no


def _association(row: PrintedRow) -> str:
    """Its reason, and the class that was refused; of several the number: ``peers why`` names them."""
    if row["refused_count"] <= 1:
        refused = "".join(f"refused: {context}" for context in row["refused"])
    else:
        why = f"dicom-node peers why {shlex.quote(row['calling_ae'])}"
        refused = f"{row['refused_count']} classes refused: {why}"
    return "; ".join(filter(None, [row["reason"], refused]))


_OF_STUDY: Final = uid("study", "study_instance_uid")

ASSOCIATIONS: Final = Noun(
    "associations",
    "Associations: who connected, and how many objects came.",
    (
        Verb(
            "list",
            "base.store.views:list_associations",
            "List associations, the newest first; an open one has no closing time.",
            "--since 1h",
            why="did the ultrasound get through?",
            inputs=(SINCE, limit(100)),
            columns=(
                *times("opened: opened_at", "closed: closed_at"),
                *fields("calling: calling_ae", "called: called_ae", "address", "outcome", "objects"),
                ("details", _association),
            ),
            none="No associations.",
        ),
    ),
)

EVENTS: Final = Noun(
    "events",
    "Events: what happened, and when.",
    (
        Verb(
            "list",
            "base.store.views:list_events",
            "List events, the oldest first; of more than --limit the newest.",
            "--since 03:10 --until 03:15",
            why='"what happened at 03:12?"',
            inputs=(
                OF_STUDY,
                SINCE,
                Input(
                    "until",
                    moment,
                    "Only before this time, written as in --since.",
                    "--until",
                    "WHEN",
                    None,
                ),
                Input(
                    "numbers",
                    int,
                    "Only with this number (docs/reference/events.md); repeatable.",
                    "--number",
                    "NUMBER",
                    (),
                    many=True,
                ),
                Input("debug", bool, "Also events of the level debug.", "--debug", default=False),
                limit(200),
            ),
            columns=(
                *times("at"),
                *fields("number", "event: text"),
                _OF_STUDY,
                ("details", details),
            ),
            none="No events.",
        ),
    ),
)

DECISIONS: Final = Noun(
    "decisions",
    "Decisions of persons that were lost with the database.",
    (
        Verb(
            "list",
            "people.decisions:waiting",
            "List decisions of persons that the database lost and that could not be applied again yet.\n\n"
            'No result of a study is sent while one of its decisions marked "holds" waits.',
            columns=(
                *fields("decision"),
                *times("at"),
                *fields("actor", "action"),
                _OF_STUDY,
                yes_no("holds", "holds", "yes", ""),
                *fields("waits_for"),
            ),
            none="No decision waits.",
        ),
        Verb(
            "settle",
            "people.decisions:settle",
            "Answer for a decision that cannot be done again, or a changed line: it holds nothing back any "
            "more.",
            '3f2a... --because "study was sent again"',
            inputs=(Input("number", str, "As `decisions list` shows it.", metavar="DECISION"), BECAUSE),
            says="Settled: results that it held back are sent.",
            role=UserRole.ADMIN,
        ),
    ),
)
