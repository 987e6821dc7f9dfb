"""``dicom-node init``: a new node from five questions."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_node.base.errors import ConfigurationError, NodeError
from dicom_node.serve.cli.output import say
from dicom_node.serve.cli.verbs import asked_password

app = typer.Typer()


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


_QUESTIONS: dict[str, tuple[str, str, Callable[[str], Any]]] = {
    "ae_title": ("AE title of this node", "AINODE", str),
    "data_dir": ("Folder for images and database", "/var/lib/dicom-node", lambda text: Path(text).absolute()),
    "pacs": ("PACS for the results, AE@HOST:PORT (empty: none yet)", "", str),
    "machines": ("Machines that send, AE@HOST, with commas between (empty: none yet)", "", _parts),
    "admin": ("Console: name of the first admin (empty: no console)", "", str),
}


@app.command("init", epilog="Example: dicom-node init --to /etc/dicom-node")
def init(
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="Where node.toml and unit go.")] = Path(),
    ae_title: Annotated[str | None, typer.Option("--ae-title", help="AE title of this node.")] = None,
    data_dir: Annotated[str | None, typer.Option("--data-dir", help="A new or empty folder.")] = None,
    pacs: Annotated[
        str | None, typer.Option("--pacs", metavar="AE@HOST:PORT", help="Where results go.")
    ] = None,
    machines: Annotated[
        str | None, typer.Option("--machines", metavar="AE@HOST,…", help="What sends images.")
    ] = None,
    admin: Annotated[
        str | None,
        typer.Option("--admin", metavar="NAME", help="First user of the console; without: no console."),
    ] = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="Ask nothing: defaults for the rest.")] = False,
) -> None:
    """Ask five questions, and write node.toml, a systemd unit and the console's first admin.

    Run it as the user that the node runs as. An option answers its question. The password is asked for, or is
    the next line of standard input. Nothing is overwritten.
    """
    from dicom_node.people import new_node

    folder = to.absolute()
    new_node.refuse_what_is_there(folder)
    options = dict(zip(_QUESTIONS, (ae_title, data_dir, pacs, machines, admin), strict=True))
    answers = new_node.Answers()
    for key, (question, default, read) in _QUESTIONS.items():
        given = default if options[key] is None and defaults else options[key]
        while True:  # at a terminal a faulty answer is asked for again
            text = given if given is not None else typer.prompt(question, default, show_default=bool(default))
            answered = replace(answers, **{key: read(text.strip())})
            try:
                new_node.examine(answered)
            except NodeError as error:
                if given is not None or not sys.stdin.isatty():
                    raise
                problems = error.problems if isinstance(error, ConfigurationError) else ()
                say("; ".join(problem.remedy for problem in problems) or str(error))
            else:
                answers = answered
                break
    new_node.refuse_what_is_there(folder, answers.data_dir)
    new_node.create(answers, folder, asked_password() if answers.admin else "")
    configuration, unit = folder / new_node.CONFIGURATION, folder / new_node.UNIT
    say(
        f"{configuration} and {unit} are written" + (f", {answers.admin} is admin." if answers.admin else ".")
    )
    say(f"Next: dicom-node check --config {configuration}, then dicom-node serve with it, or as a service:")
    say(f"  cp {unit} /etc/systemd/system/ && systemctl enable --now dicom-node")
    if answers.admin:
        say("The console is at http://127.0.0.1:8080 on this machine; for others it needs [console.tls].")
