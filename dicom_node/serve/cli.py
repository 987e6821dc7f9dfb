"""``dicom-node``: the verbs of nouns as ``serve/commands.py`` makes them, and those of the whole node.

Verbs hold no logic, and import what is heavy only when they run. Standard output has JSON for programs or
tables for people, nothing else. Text from outside is printed literally: no markup is read from it, and
control characters appear as escapes.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import sys
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from ai_pipeline.errors import disk_fault
from dicom_node import __version__
from dicom_node.base import logs
from dicom_node.base.actions.inputs import SINCE, moment
from dicom_node.base.actions.nouns import PEERS
from dicom_node.base.errors import ConfigurationError, ExitCode, FaultyInput, NodeError
from dicom_node.base.lifecycle import Role
from dicom_node.serve.commands import Config, Json, group, group_of, load
from dicom_node.serve.nouns import MODULES
from dicom_node.serve.printing import (
    never_fail_on_characters,
    print_json,
    print_part,
    print_rows,
    prompt_password,
    say,
    say_checked,
)

RoleOption = Annotated[
    Role,
    typer.Option(
        "--role",
        help="listener: receive, assemble, timers, console if enabled. worker: run models, deliver. "
        "delivery, console: that alone. all: everything.",
    ),
]


INTERRUPTED = 130  # 128 + SIGINT, as shells count it

_DAY = ["%Y-%m-%d"]
_LOGGER = logging.getLogger(__name__)

app = typer.Typer(
    name="dicom-node",
    help="A DICOM node that runs AI on studies and returns the results to the PACS. Not for diagnostic use.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
database = group("The database.")
programs = group("Programs of other makers, as pipelines.")
samples = group("Configuration files to start from.")
spool = group("The spool: received objects on disk.")


def _version(wanted: bool) -> None:
    """Print the version and exit, if ``wanted``."""
    if wanted:
        say(f"dicom-node {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A DICOM node that runs AI on studies and returns the results to the PACS. Not for diagnostic use."""


@app.command(epilog="Example: dicom-node serve --config node.toml")
def serve(config: Config, role: RoleOption = Role.ALL) -> int:
    """Run the node in the foreground until SIGTERM or Ctrl-C; logs "ready" when it can receive and run.

    SIGHUP (`dicom-node reload`) takes over a changed configuration, all of it or nothing.
    """
    logs.configure("info", "node")
    _LOGGER.info(
        "dicom-node %s starts (role %s), reads and checks %s", __version__, role, ", ".join(map(str, config))
    )
    from dicom_node.serve import node  # takes a second or two

    return node.serve(config, role)


@app.command(epilog="Example: dicom-node reload --config node.toml")
def reload(config: Config) -> None:
    """Let the node that runs on this machine take over its configuration files, all of them or nothing.

    Mistakes are reported as by `check`, and change nothing. Jobs and deliveries under way are finished first.
    """
    from dicom_node.people.reload import reload_node

    for place in reload_node(config):
        say(f"The node ({place}) has the new configuration; each worker takes it after its job.")


@app.command(epilog="Example: dicom-node check --config node.toml")
def check(config: Config, role: RoleOption = Role.ALL, as_json: Json = False) -> int:
    """Check configuration, folders, database, certificates, models and peers; exit 78 on a mistake.

    What may pass, such as a PACS that does not answer now, is a warning and changes no exit status.
    """
    from dicom_node.people import preflight

    checked = preflight.check(config, role, tries=True)
    if as_json:
        print_json(
            {
                "problems": list(map(dataclasses.asdict, checked.problems)),
                "checks": list(map(dataclasses.asdict, checked.tried)),
            }
        )
        return ExitCode.CONFIG if checked.problems else ExitCode.OK
    for line in checked.tried:
        say_checked(line.subject, line.text, ok=line.ok)
    if checked.problems:
        raise ConfigurationError(checked.problems)
    hint = "" if all(line.ok for line in checked.tried) else ", but see what is warned of above"
    say(f"The configuration is right{hint}.")
    return ExitCode.OK


@app.command("support-bundle", epilog="Example: dicom-node support-bundle bundle.zip --config node.toml")
def support_bundle(
    destination: Annotated[Path, typer.Argument(metavar="FILE", help="A new ZIP file.")], config: Config
) -> None:
    """Write versions, counts, events, what check says, the configuration; no patients, no secrets."""
    from dicom_node.people.support_bundle import write_bundle

    names = write_bundle(load(config), config, destination)
    say(f"{destination} holds {', '.join(names)}: read it before you send it.")


@app.command("backup", epilog="Example: dicom-node backup /backup/2026-03-01 --config node.toml")
def save_backup(
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A new folder.")],
    config: Config,
    objects: Annotated[
        bool, typer.Option("--objects", help="With received objects and built results.")
    ] = False,
    without_key: Annotated[
        bool, typer.Option("--without-key", help="Without the site key, where its copy is kept elsewhere.")
    ] = False,
) -> None:
    """Save database, site key and configuration while the node runs. It holds patient data and secrets."""
    from dicom_node.people import backup

    for note in backup.backup(load(config), config, destination, objects=objects, key=not without_key):
        say(note)
    backup.verify(destination)
    say(f"Saved to {destination} and verified.")


@app.command(epilog="Example: dicom-node restore /backup/2026-03-01 --verify --config node.toml")
def restore(
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The folder of a backup.")],
    config: Config,
    verify: Annotated[bool, typer.Option("--verify", help="Only look whether the backup is whole.")] = False,
) -> None:
    """Put a backup in place of the present data, which is kept beside it. The node must be stopped."""
    from dicom_node.people import backup, lost_decisions

    loaded = load(config)
    if verify:
        manifest = backup.verify(source)
        say(f"{len(manifest['files'])} files of {manifest['made']}, program {manifest['program']}: whole.")
        return
    saved, notes = backup.restore(loaded, source)
    for note in (*notes, *lost_decisions.describe_lost(loaded)):
        say(note)
    say(f"Restored. Its configuration, for comparison: {', '.join(str(file) for file in saved)}")
    say("Start the node: it indexes objects received after the backup before it completes or sends anything.")


@database.command(epilog="Example: dicom-node db upgrade --config node.toml")
def upgrade(config: Config) -> None:
    """Create the database or bring its schema to this version. Stop the node first."""
    from dicom_node import people

    say(f"The database has version {people.upgrade_database(load(config))}.")


@database.command(epilog="Example: dicom-node db move --config node.toml")
def move(config: Config) -> None:
    """Copy node.db of a stopped node into the empty PostgreSQL of node.database_url. The file stays."""
    from dicom_node.people import backup

    moved = backup.move_database(load(config))
    say(f"{sum(moved.values())} rows of {len(moved)} tables, counted in both. Start the node.")


@programs.command(
    "try",
    epilog="Example: dicom-node programs try './lungs.py {input} {output}' --study ./study --out ./sent",
)
def try_program(
    program: Annotated[
        str,
        typer.Argument(
            metavar="IMAGE_OR_COMMAND",
            help="A command with {input} and {output}, an image that is here, or a MONAI package's folder.",
        ),
    ],
    study: Annotated[
        Path, typer.Option("--study", metavar="FOLDER", exists=True, help="DICOM files of one study.")
    ],
    layout: Annotated[
        Literal["numbered", "mercure", "map"] | None,
        typer.Option("--layout", help="How the program expects its folders; default: numbered."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="A new folder for what would be sent; held/ has what waits."
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            "--option",
            metavar="NAME=VALUE",
            help="An option of the rule, e.g. seconds=900, settings.sigma=3.",
        ),
    ] = None,
    as_json: Json = False,
) -> int:
    """Run a program once on a study, confined as in a job, and say what the node would send of its answer.

    Needs no node, no configuration and no PACS. Exit status 0: all of it would be sent; 1: something would
    wait for a person; 65: something is refused, or the program failed.
    """
    from ai_pipeline.pipelines import read_options
    from dicom_node.people import program_trial

    try:
        options = program_trial.TrialOptions(layout or "", read_options(option or []))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--option") from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the program is ended then, too
    report = program_trial.progress(partial(say, err=True))
    try:
        tried = program_trial.try_program(program, study, options, report, out)
    except program_trial.TrialFailed as error:
        for line in error.printed.splitlines()[-program_trial.SHOWN_LINES :]:
            say(f"    {line}", err=True)
        raise
    if as_json:
        print_json(tried.rows)
    else:
        print_rows(tried.rows, program_trial.COLUMNS, "The program wrote no object and no finding.")
    for line in tried.remarks():
        say(line, err=True)
    return tried.status


@samples.command(
    epilog="Example: dicom-node config sample > node.toml; dicom-node config sample peers >> node.toml"
)
def sample(
    which: Annotated[
        Literal["node", "peers", "rules", "notifications"] | None,
        typer.Argument(
            metavar="[node|peers|rules|notifications]",
            help="Every key of the node, a peer, a rule or a notification.",
        ),
    ] = None,
) -> None:
    """Print a configuration to start from: the lines that are needed, or every key with its default."""
    from dicom_node.base.config.sample import FILES, START

    sys.stdout.write(FILES[which]() if which else START)


@spool.command(epilog="Example: dicom-node spool compare --config node.toml")
def compare(config: Config) -> int:
    """Compare spool and database, as the node does at its start and daily; exit status 1: they differ.

    What persons had decided and the database has lost is done again, or named where it cannot be.
    """
    from dicom_node.people import lost_decisions
    from dicom_node.people.spool import compare_spool

    loaded = load(config)
    lost = lost_decisions.describe_lost(loaded)
    difference = compare_spool(loaded)
    for line in (*lost, difference or "Spool and database agree."):
        say(line)
    return ExitCode.FAILED if difference or lost else ExitCode.OK


@spool.command(epilog="Example: dicom-node spool reindex --config node.toml")
def reindex(config: Config) -> None:
    """Let the node index received objects that its database does not know, as after a lost database.

    The node may run; one that is stopped indexes them when it starts. Results that were sent are asked for at
    their destinations and not sent twice.
    """
    from dicom_node.people.spool import reindex_spool

    done = reindex_spool(load(config))
    say(f"{done} objects are put back: the node takes them in." if done else "Nothing to put back.")


def _checked_answer(parameter: typer.CallbackParam, text: str) -> str:
    """Check one answer of ``init``; at a terminal typer asks again if it is invalid (typer.BadParameter)."""
    from dicom_node.people import new_node

    try:
        new_node.examine_answers({str(parameter.name): text})
    except NodeError as error:
        raise typer.BadParameter(str(error)) from None
    return text


def _free_folder(folder: Path) -> Path:
    """Refuse a folder with a configuration before ``init`` asks its questions."""
    from dicom_node.people import new_node

    new_node.new_files(folder.absolute())
    return folder


def _asked_option(flag: str, question: str) -> Any:
    """Make an option of ``init`` whose value is asked for at a terminal."""
    return typer.Option(flag, prompt=question, callback=_checked_answer, help=f"{question}.")


@app.command(epilog="Example: dicom-node init --to /etc/dicom-node")
def init(
    ae_title: Annotated[str, _asked_option("--ae-title", "AE title of this node")] = "AINODE",
    data_dir: Annotated[
        str, _asked_option("--data-dir", "Folder for images and data")
    ] = "/var/lib/dicom-node",
    pacs: Annotated[
        str, _asked_option("--pacs", "PACS for the results, AE@HOST:PORT (empty: none yet)")
    ] = "",
    machines: Annotated[
        str, _asked_option("--machines", "Machines that send, AE@HOST, with commas between (empty: none yet)")
    ] = "",
    admin: Annotated[
        str, _asked_option("--admin", "Console: name of the first admin (empty: no console)")
    ] = "",
    to: Annotated[
        Path,
        typer.Option(
            "--to",
            metavar="FOLDER",
            is_eager=True,
            callback=_free_folder,
            help="Where node.toml and unit go.",
        ),
    ] = Path(),
) -> None:
    """Ask five questions, and write node.toml, a systemd unit and the console's first admin.

    Run it as the user that the node runs as. An option answers its question. The password is asked for, or is
    the next line of standard input. Nothing is overwritten.
    """
    from dicom_node.people import new_node, users

    configuration, unit = new_node.create_node(
        {
            "ae_title": ae_title,
            "data_dir": data_dir,
            "pacs": pacs,
            "machines": machines,
            "admin": admin,
        },
        to.absolute(),
        prompt_password(partial(users.checked_password, admin)) if admin else "",
    )
    say(f"{configuration} and {unit} are written.")
    say(f"Next: dicom-node check --config {configuration}, then dicom-node serve with it, or as a service:")
    say(f"  cp {unit} /etc/systemd/system/ && systemctl enable --now dicom-node")
    if admin:
        say("The console is at http://127.0.0.1:8080 on this machine; for others it needs [console.tls].")
    ports = "11112 ([listener] port)"
    if admin:
        ports += " and 8080 ([console] port)"
    say(f"Ports: {ports}. Where another program has one of them, enter another in {configuration}.")


@app.command(
    epilog="Example: dicom-node fetch --peer pacs --modality DX --from 2026-03-01 --to 2026-03-31 "
    "--config node.toml"
)
def fetch(
    config: Config,
    peer: Annotated[str, typer.Option("--peer", metavar="PEER", help='A peer with may = ["query"].')],
    first: Annotated[datetime, typer.Option("--from", formats=_DAY, help="First Study Date.")],
    last: Annotated[datetime, typer.Option("--to", formats=_DAY, help="Last Study Date.")],
    modality: Annotated[
        list[str] | None,
        typer.Option("--modality", metavar="CODE", help="Such as DX; repeatable."),
    ] = None,
    rule: Annotated[
        str, typer.Option("--rule", metavar="RULE", help="Only this rule may take them; default: all rules.")
    ] = "",
    per_minute: Annotated[
        float,
        typer.Option(
            "--per-minute",
            metavar="N",
            min=0,
            max=600,
            help="Less than the peer's fetch_per_minute.",
        ),
    ] = 0,
) -> None:
    """Have the node fetch studies from a peer and analyse them, also old ones; what it has is left out.

    It returns at once; `fetches list` shows what came of each.
    """
    from dicom_node.base.processes import running
    from dicom_node.people import fetches

    settings = load(config)
    asked = fetches.request_fetches(
        settings,
        fetches.FetchRequest(
            peer=peer,
            first=first.date(),
            last=last.date(),
            modalities=tuple(modality or ()),
            rule=rule,
            per_minute=per_minute,
        ),
    )
    say(f"{asked['found']} studies found, {asked['wanted']} of them to be fetched.", err=True)
    say(
        f"Not fetched: {asked['here']} are here, {asked['before']} were fetched or given up before.", err=True
    )
    if asked["strays"]:
        say(f"{asked['strays']} answers of the peer do not fit the question: left out.", err=True)
    if asked["wanted"] and not running(settings.node.data_dir):
        say("No node works on this data folder: they are fetched once one does.", err=True)


@app.command(epilog="Example: dicom-node demo --input my-dicom-files --out demo-output")
def demo(
    *,
    own: Annotated[
        Path | None,
        typer.Option("--input", metavar="DIR", exists=True, file_okay=False, help="Your own DICOM files."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", file_okay=False, help="Where results go.")
    ] = Path("demo-output"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget what earlier runs stored in the demonstration's PACS.")
    ] = False,
) -> int:
    """Start a PACS and a node, send an ultrasound and a drawn chest, and write a page of what came back."""
    from dicom_node.people import demo as people_demo

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # PACS and node are stopped then, too
    try:
        rows = people_demo.run(out, own=own, fresh=fresh, say=say)
    except OSError as error:
        raise (
            FaultyInput(f"cannot write to {error.filename}: {error.strerror}; another folder: --out DIR")
            if error.filename
            else error
        ) from None
    say("")
    say(f"See it: open {out.resolve()}/index.html in a browser. Not for diagnostic use.")
    say("Next: your own files (dicom-node demo --input FOLDER), then your PACS (docs/start/first-study.md).")
    # Results are in the PACS, or the pipeline had a reason not to apply.
    return (
        ExitCode.OK
        if all(row["state"] in ("delivered", "not_applicable") for row in rows)
        else ExitCode.FAILED
    )


def why(
    config: Config,
    asked: Annotated[
        str, typer.Argument(metavar="NAME|AE|ADDRESS", help="A peer, an AE title or an address.")
    ],
    since: Annotated[str, typer.Option("--since", metavar="WHEN", help=SINCE.help)] = "30d",
    as_json: Json = False,
) -> None:
    """List what a machine tried, what was refused, and the configuration lines that would allow it."""
    from dicom_node.people import callers

    found = callers.why(load(config), asked, moment(since))
    if as_json:
        print_json(found)
        return
    peer = f"is the peer {found['peer']}" if found["peer"] else "is no peer"
    say(f"{found['asked']} {peer}; seen from {', '.join(found['addresses']) or 'no address'}", bold=True)
    for heading, columns in callers.PARTS_OF_CALLER.items():
        print_part(heading, found[heading], columns)
    if found["others"]:
        say(f"From there also called (each has its own `dicom-node peers why`): {', '.join(found['others'])}")
    for advice in found["advice"] or [{"says": "There is nothing to do.", "lines": []}]:
        say("")
        say(advice["says"], bold=True)
        for line in advice["lines"]:
            say(f"    {line}")


for _noun in MODULES:
    _commands = group_of(_noun)
    if _noun is PEERS:
        _commands.command("why", epilog="Example: dicom-node peers why US1 --config node.toml")(why)
    app.add_typer(_commands, name=_noun.name)
for _name, _verbs in (("programs", programs), ("spool", spool), ("config", samples), ("db", database)):
    app.add_typer(_verbs, name=_name)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a verb; every error of the node becomes one clear message and its exit status."""
    logs.configure("error", "dicom-node")  # a verb says what it has to say itself; `serve` sets its own level
    never_fail_on_characters()
    os.umask(0o077)  # whatever a verb writes holds patient data, or leads to it
    status = _run(arguments)
    if status == INTERRUPTED:
        # All is cleaned up; threads of an association that was cut would wait for their peer.
        sys.stdout.flush()
        os._exit(status)
    sys.exit(status)


def _run(arguments: list[str] | None) -> int:
    """Carry out the verb that the arguments name, and print its errors; returns the exit status. None: those
    of the process.
    """
    try:
        return int(app(args=arguments, standalone_mode=False) or ExitCode.OK)
    except NodeError as error:
        problems = error.problems if isinstance(error, ConfigurationError) else ()
        head = f"Mistakes in the configuration: {len(problems)}\n" if problems else "dicom-node: "
        for line in f"{head}{error}".splitlines():
            say(line, err=True)
        return error.exit_code
    except PermissionError as error:
        say(
            f"dicom-node: {error.filename}: {error.strerror}: run this as the user that the node runs as",
            err=True,
        )
        return ExitCode.CONFIG
    except OSError as error:
        if not (fault := disk_fault(error)):
            raise
        say(f"dicom-node: {fault}", err=True)
        return ExitCode.UNAVAILABLE
    except typer.TyperException as error:
        error.show() if hasattr(error, "show") else say(str(error), err=True)
        return ExitCode.USAGE
    except (typer.Abort, KeyboardInterrupt):
        return INTERRUPTED
