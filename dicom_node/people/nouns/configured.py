"""What the configuration and its folders have: peers, rules and models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from dicom_node.base.errors import ExitCode
from dicom_node.base.kinds import UserRole
from dicom_node.people.nouns import SINCE, Input, Noun, Verb, all_of, moment, noun
from dicom_node.people.nouns.columns import Column, PrintedRow, fields, times, yes_no
from dicom_node.people.nouns.studies import JOBS_OF_RULES

_COUNTED: Final = (*fields("count"), *times("last: last_at"))
_SINCE_THEN: Final = yes_no("since then", "outdated", "got through", "")


def _address(row: PrintedRow) -> str:
    return row["url"] or (f"{row['host']}:{row['port'] or '–'}" if row["host"] else "–")


def _refused_by_pixels(row: PrintedRow) -> str:
    """What the pixel gate refused: how many, and the share with its 95 % interval."""
    if row["refusal_rate"] is None:
        return str(row["refused_pixels"])
    share, low, high = row["refusal_rate"]
    return f"{row['refused_pixels']} = {share:.1%} ({low:.1%} to {high:.1%})"


PARTS_OF_CALLER: Final[Mapping[str, Sequence[Column]]] = {
    "associations": noun("associations").verb("list").columns,
    "refused_contexts": (*fields("classes", "context"), *_COUNTED),
    "rejections": (
        *fields("calling: calling_ae", "called: called_ae", "address", "meaning"),
        *_COUNTED,
        _SINCE_THEN,
    ),
    "refused_objects": (*fields("status", "reason"), *_COUNTED, _SINCE_THEN),
    "failures": (*fields("address", "text"), *_COUNTED),
}
"""The parts of ``peers why``."""

_DESPITE_HOLD: Final = Input(
    "despite_hold",
    bool,
    "Save it although it sends results at once that another rule holds.",
    "--despite-hold",
    default=False,
)
_SAVED: Final = "{result[text]}"


def _entered(kind: str, file: str) -> tuple[Verb, Verb]:
    """``put`` and ``remove`` of peers or rules; ``file``: an example file of one."""
    one = kind.removesuffix("s")
    return (
        Verb(
            "put",
            "people.entered:put_file",
            f"Add a {one}, or change one that was entered, after a check; running nodes take it over.",
            f"{file} --config node.toml",
            inputs=(
                Input("file", Path, f"TOML with the keys of one {one}.", metavar="FILE"),
                _DESPITE_HOLD,
            ),
            fixed={"kind": kind},
            says=_SAVED,
            role=UserRole.ADMIN,
        ),
        Verb(
            "remove",
            "people.entered:remove_now",
            f"Take a {one} out that was entered by page or command; running nodes take it over.",
            f"{Path(file).stem} --config node.toml",
            inputs=(Input("name", str, "One that was entered, not of a file.", metavar=one.upper()),),
            fixed={"kind": kind},
            says=_SAVED,
            role=UserRole.ADMIN,
        ),
    )


PEERS: Final = Noun(
    "peers",
    "Peers: modalities and PACS.",
    (
        Verb(
            "list",
            "people.peers:list_peers",
            "List the configured peers; passwords are not shown.",
            columns=(
                *fields("name", "ae_title", "may"),
                ("address", _address),
                *fields("transport"),
                ("results", lambda row: row["results"] if "receive" in row["may"] else "–"),
                ("confirm", lambda row: row["confirm"] if "receive" in row["may"] else "–"),
            ),
            none="No peers are configured.",
        ),
        Verb(
            "test",
            "people.peers:try_peers",
            "Try all that delivery to a peer, and questions to it, need; nothing is stored or retrieved.",
            "pacs --config node.toml",
            inputs=(
                Input(
                    "names",
                    str,
                    "Names; default: all that may receive or be queried.",
                    metavar="[PEER]...",
                    default=(),
                    many=True,
                ),
            ),
            columns=(*fields("peer", "check"), yes_no("", "ok", "ok", "FAILED"), *fields("says: text")),
            none="No peer may receive or be queried.",
            status=all_of("ok", ExitCode.UNAVAILABLE),
            role=UserRole.OPERATOR,
        ),
        *_entered("peers", "us2.toml"),
        Verb(
            "versions",
            "people.entered:history",
            "List the versions of the entered peers and rules: when, by whom, and what was changed.",
            columns=fields("version", "saved"),
            none="No peers or rules were entered by page or command.",
            role=UserRole.ADMIN,
        ),
        Verb(
            "undo",
            "people.entered:undo_now",
            "Have all entered peers and rules as in an earlier version; running nodes take it over.",
            "7 --config node.toml",
            inputs=(
                Input("version", int, "One of `peers versions`; 0: none.", metavar="VERSION", least=0),
                _DESPITE_HOLD,
            ),
            says=_SAVED,
            role=UserRole.ADMIN,
        ),
    ),
)

RULES: Final = Noun(
    "rules",
    "Rules: which pipeline for which study.",
    (
        Verb(
            "try",
            "people.rules:try_files",
            "Say which rules would take these files, which not, and why. Nothing is sent or stored.",
            "image.dcm --from us1 --config node.toml",
            inputs=(
                Input("files", Path, "DICOM files, and folders of them.", metavar="FILES...", many=True),
                Input(
                    "sender",
                    str,
                    "As if this peer (name or AE title) had sent them.",
                    "--from",
                    "PEER",
                    "",
                ),
            ),
            columns=(
                ("file", lambda row: row["file"].rpartition("/")[2]),
                *fields("modality"),
                ("rule", lambda row: row["rule"] or "–"),
                yes_no("applies", "applies"),
                ("pipeline", lambda row: row["pipeline"] if row["applies"] else "–"),
                *fields("why: reason"),
                ("then", lambda row: "; ".join(row["then"]) or "–"),
            ),
            none="No files, or no rules are configured.",
            status=all_of("rule", ExitCode.DATA),  # no rule reads a faulty file
        ),
        Verb(
            "replay",
            "people.rules:replay",
            "Queue the jobs that the rules now start for studies received earlier, and that these did not "
            "get.\n\nUses the rules in these files: run `dicom-node reload` first, so that the node uses "
            "them too.",
            "--since 7d --dry-run --config node.toml",
            inputs=(
                Input("since", moment, SINCE.help, "--since", "WHEN", "7d"),
                Input(
                    "dry_run",
                    bool,
                    "List the jobs that would be queued; change nothing.",
                    "--dry-run",
                    default=False,
                ),
            ),
            columns=JOBS_OF_RULES,
            none="All studies of this time had the jobs that the rules want.",
            role=UserRole.ADMIN,
        ),
        *_entered("rules", "chest.toml"),
    ),
)

MODELS: Final = Noun(
    "models",
    "Models: cards and weights.",
    (
        Verb(
            "list",
            "people.models:listed",
            "List the model cards: shipped, and those of workers.models_dir.",
            columns=fields("model: id", "version", "task", "architecture", "licence"),
            none="No model cards.",
        ),
        Verb(
            "verify",
            "people.models:verified",
            "Compare the weights of every model with the SHA-256 of its card.",
            columns=(*fields("model: id"), yes_no("", "ok", "ok", "REFUSED"), *fields("why: text")),
            none="No model cards.",
            status=all_of("ok", ExitCode.DATA),
        ),
        Verb(
            "drift",
            "people.models:drift",
            "Compare each model's scores and refusals with its card's reference, sender by sender.\n\n"
            "Counts of whole days (UTC); the last 30 where --since is not given. --json has "
            "the scores of each label.",
            "--peer room3 --since 30d",
            why="is one machine different?",
            inputs=(
                SINCE,
                Input(
                    "peer",
                    str,
                    "Only images of this peer (or AE title, or other).",
                    "--peer",
                    "NAME",
                    "",
                ),
            ),
            columns=(
                *fields("model", "version", "peer: calling_ae", "since", "analysed", "reoriented"),
                ("refused by pixels", _refused_by_pixels),
                *fields("by header: refused_header", "scores: verdict", "note"),
            ),
            none="No images were counted.",
        ),
        Verb(
            "feedback",
            "people.assessments:all_assessments",
            "How readers assessed findings: accepted, modified, rejected or missing, why, of which version.",
            "--since 30d --json --config node.toml",
            inputs=(SINCE,),
            columns=(
                *times("at"),
                *fields("by: actor", "study: study_instance_uid"),
                *fields("finding", "decision", "verdict", "model", "version"),
            ),
            none="Nobody assessed a finding in this time.",
            role=UserRole.READER,
        ),
    ),
)
