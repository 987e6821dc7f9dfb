"""Studies: what was received, and what became of it."""

from collections.abc import Mapping, Sequence
from typing import Final

from dicom_node.base.kinds import ReaderVerdict, RejectionReason, UserRole
from dicom_node.base.lifecycle import StudyState
from dicom_node.people.nouns import BECAUSE, SINCE, STUDY, Input, Noun, Verb, all_of, limit, states
from dicom_node.people.nouns import STUDIES as UIDS
from dicom_node.people.nouns.columns import (
    Column,
    PrintedRow,
    details,
    fields,
    local,
    short,
    times,
    uid,
    yes_no,
)


def state_in_words(row: PrintedRow) -> str:
    """The state of a study in words; "held" if no job applied but a limit of a rule holds one."""
    return "held" if row["job_held"] and row["state"] == StudyState.NOT_APPLICABLE else str(row["state"])


def _results_in_words(results: Sequence[PrintedRow]) -> str:
    """The number of results in each state, at all peers, such as "4 confirmed, 1 dead"."""
    found = [
        "withdrawn"
        if result["withdrawn"]
        else "/".join(sorted(set(result["deliveries"].values()))) or "kept here"
        for result in results
    ]
    return ", ".join(f"{found.count(state)} {state}" for state in dict.fromkeys(found))


def _withdrawn(result: PrintedRow) -> str:
    """When, by whom and why a result was withdrawn; "" for one in force."""
    gone = result["withdrawn"]
    return f"{local(gone['at'])} by {gone['actor']}: {gone['because']} ({gone['reason']})" if gone else ""


_OF_STUDY: Final = uid("study", "study_instance_uid")
_CHANGED: Final = (*fields("study"), yes_no("done", "done"), *fields("reason"))

JOBS_OF_RULES: Final[Sequence[Column]] = (
    _OF_STUDY,
    ("rule", lambda row: row["rule"] or "–"),
    ("pipeline", lambda row: row["pipeline"] or "–"),
    *fields("images: sources", "to: destinations"),
    yes_no("queued", "queued"),
    *fields("reason"),
)
"""What rules make of studies again."""

PARTS: Final[Mapping[str, Sequence[Column]]] = {
    "results": (
        *fields("kind", "sop_instance_uid"),
        ("deliveries", lambda row: row["deliveries"] or "none"),
        ("withdrawn", _withdrawn),
    ),
    "jobs": fields("job", "rule", "state", "attempts", "reason"),
    "received": (
        *times("received: received_at"),
        *fields("from: calling_ae", "sop_instance_uid", "outcome", "reason"),
    ),
    "steps": (
        *times("began: begun_at", "ended: ended_at"),
        *fields("from: calling_ae", "status", "objects", "missing"),
    ),
    "events": (*times("at"), *fields("number", "event: text"), ("details", details)),
}
"""The parts of ``studies show``."""

STUDIES: Final = Noun(
    "studies",
    "Received studies and their results.",
    (
        Verb(
            "list",
            "base.store.views:list_studies",
            'List studies, the newest first. "held": a limit of its rule waits for a person (`jobs retry`).',
            "--state failed --since 2h --config node.toml",
            inputs=(states(*StudyState, "held"), SINCE, limit(100)),
            columns=(
                uid("study", "study"),
                ("state", state_in_words),
                *fields("patient: patient_id", "modality: modalities", "objects: instances"),
                ("results", lambda row: _results_in_words(row["results"])),
                *times("received: last_received_at"),
                *fields("reason"),
            ),
            none="No studies, or none that all filters let pass.",
        ),
        Verb(
            "versions",
            "people.studies:versions",
            "Show the choices for a study in quarantine: patients, versions, their senders and differences.",
            "1.2.840.113619.2.1 --config node.toml",
            inputs=(STUDY,),
            columns=(
                *fields("take: number"),
                (
                    "choose",
                    lambda row: (
                        row["choose"] + (f" (if {row['if_taken']} is taken)" if row["if_taken"] else "")
                    ),
                ),
                ("image", lambda row: short(row["sop_instance_uid"], 26) if row["sop_instance_uid"] else ""),
                *fields("objects", "from: calling_ae"),
                *times("received: first_received_at"),
                (
                    "now",
                    lambda row: "counts" if row["counts"] else "in another study" if row["stands_in"] else "",
                ),
                *fields("details: differs"),
            ),
            none="There is nothing to choose in this study.",
            then="Then: dicom-node studies release {study_instance_uid} --as-of {result[0][as_of]} "
            "--take NUMBER",
        ),
        Verb(
            "rerun",
            "people.studies:rerun_rules",
            "Apply the present rules to studies again, delivered and failed ones too: to all of them or "
            "none.\n\nUnchanged results are not sent twice. A study that is being received or in quarantine "
            "is refused.",
            "1.2.840.113619.2.1 --config node.toml",
            inputs=(UIDS,),
            columns=JOBS_OF_RULES,
            role=UserRole.OPERATOR,
        ),
        Verb(
            "retry",
            "people.studies:change_studies",
            "Run the stopped jobs of studies again, and send their given-up deliveries again.",
            "1.2.840.113619.2.1 113619.2.7 --config node.toml",
            inputs=(UIDS,),
            fixed={"change": "retry"},
            columns=_CHANGED,
            status=all_of("done"),
            role=UserRole.OPERATOR,
        ),
        Verb(
            "send",
            "people.studies:change_studies",
            "Send the newest results of studies to a further peer, as far as it takes their kinds.",
            "1.2.840.113619.2.1 --to teaching --config node.toml",
            inputs=(UIDS, Input("peer", str, "A configured peer that may receive.", "--to", "PEER")),
            fixed={"change": "send"},
            columns=_CHANGED,
            status=all_of("done"),
            role=UserRole.OPERATOR,
        ),
        Verb(
            "findings",
            "people.assessments:findings_of_study",
            "Show what a study's newest reports found, and how each finding was assessed.",
            "1.2.840.113619.2.1 --config node.toml",
            inputs=(STUDY,),
            columns=(
                *fields("finding", "decision"),
                (
                    "numbers",
                    lambda row: ", ".join(f"{name} {number}" for name, number in row["numbers"].items()),
                ),
                *fields("model", "tracking_uid"),
                (
                    "assessed",
                    lambda row: ", ".join(f"{one['verdict']} ({one['actor']})" for one in row["verdicts"]),
                ),
            ),
            none="No report of this study is here.",
        ),
        Verb(
            "assess",
            "people.assessments:assess_named",
            "Assess one finding of a study's newest report; a later assessment replaces the earlier one.",
            '1.2.3 "Pleural effusion" --verdict rejected --because "a rib"',
            inputs=(
                STUDY,
                Input("finding", str, "As `studies findings` names it.", metavar="FINDING"),
                Input(
                    "verdict",
                    ReaderVerdict,
                    "missing: the finding is there and the report lacks it.",
                    "--verdict",
                ),
                Input(
                    "because",
                    str,
                    "The reason; needed for modified and rejected.",
                    "--because",
                    "TEXT",
                    "",
                ),
                Input(
                    "tracking_uid",
                    str,
                    "Tracking UID of the finding, if several have this name.",
                    "--tracking-uid",
                    "UID",
                    "",
                ),
                Input(
                    "model",
                    str,
                    "Model of the finding, if several models report it.",
                    "--model",
                    "NAME",
                    "",
                ),
            ),
            says="Kept: {result[finding]} of {result[model]} is {verdict}.",
            role=UserRole.READER,
        ),
        Verb(
            "accept",
            "people.assessments:accept_results",
            "Accept results that wait for it (assess_first of a rule): they are sent.",
            "1.2.840.113619.2.1 --config node.toml",
            inputs=(
                STUDY,
                Input(
                    "rejected",
                    bool,
                    "Accept rejected results instead of waiting ones.",
                    "--rejected",
                    default=False,
                ),
            ),
            says="Accepted: {result} result{s} will be sent.",
            role=UserRole.READER,
        ),
        Verb(
            "reject",
            "people.assessments:reject_results",
            "Reject results that wait for an assessment: they are not sent.",
            '1.2.3 --because "wrong side" --config node.toml',
            inputs=(STUDY, BECAUSE),
            says="Rejected: {result} result{s} will not be sent.",
            role=UserRole.READER,
        ),
        Verb(
            "delete",
            "people.studies:delete_by_uid",
            "Delete received images of studies before spool.keep_days; exit status 1 if one cannot be "
            "deleted.\n\nA study must have ended with all results confirmed. Built results stay.",
            "1.2.840.113619.2.1 --config node.toml",
            inputs=(UIDS,),
            columns=(_OF_STUDY, yes_no("deleted", "deleted"), *fields("why not: reason")),
            status=all_of("deleted"),
            role=UserRole.ADMIN,
        ),
        Verb(
            "withdraw",
            "people.studies:change_studies",
            "Withdraw the results of studies: peers with iocm get a rejection note; UIDs are printed for the "
            "others.\n\nEach study is withdrawn alone; exit status 1 if one refuses.",
            '1.2.3 --reason safety --because "other patient"',
            inputs=(
                UIDS,
                Input("reason", RejectionReason, "Reason that the PACS gets.", "--reason"),
                Input("because", str, "The reason, which the rejection note contains.", "--because", "TEXT"),
                Input(
                    "only",
                    str,
                    "Only this SOP Instance UID; repeatable.",
                    "--result",
                    "UID",
                    (),
                    many=True,
                ),
            ),
            fixed={"change": "withdraw", "raises_alone": True},
            columns=(*_CHANGED, ("to be removed by hand", lambda row: _by_hand(row["by_hand"]))),
            status=all_of("done"),
            role=UserRole.OPERATOR,
        ),
        Verb(
            "release",
            "people.studies:change_studies",
            "Release studies from quarantine: each is assembled again; of one study you may choose what "
            "counts.\n\nObjects that you do not choose stay aside.",
            "1.2.840.113619.2.1 --as-of 2-17 --take 1",
            inputs=(
                UIDS,
                Input(
                    "take",
                    int,
                    "Number of a choice in `studies versions`; repeatable.",
                    "--take",
                    "NUMBER",
                    (),
                    many=True,
                ),
                Input(
                    "as_of",
                    str,
                    "As `studies versions` says: refused if something came since, so that no number stands "
                    "for another patient than you saw.",
                    "--as-of",
                    default=None,
                ),
            ),
            fixed={"change": "release", "raises_alone": True},
            columns=_CHANGED,
            status=all_of("done"),
            role=UserRole.OPERATOR,
        ),
    ),
    key="id",
)


def _by_hand(left: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{peer}: {', '.join(uids)}" for peer, uids in left.items())
