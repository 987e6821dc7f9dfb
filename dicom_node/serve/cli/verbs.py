"""Verbs that print one thing in parts: a study, a job, a caller.

Makes the command group of a noun from what is declared in ``dicom_node.people.nouns``.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from dicom_node.base.events import DELIVERY_RETRIED
from dicom_node.people.nouns import SINCE, UID_HELP, Input, Verb, moment, noun, whole_or_end
from dicom_node.people.nouns.columns import local
from dicom_node.people.nouns.studies import PARTS, state_in_words
from dicom_node.serve.cli.output import (
    Config,
    Json,
    group,
    load,
    print_details,
    print_json,
    print_part,
    print_rows,
    reading,
    say,
)


def _show_study(
    uid: Annotated[str, typer.Argument(metavar="UID", callback=whole_or_end, help=UID_HELP)],
    config: Config,
    as_json: Json = False,
) -> None:
    """Show one study: objects received, jobs, results, procedure steps, what happened."""
    from dicom_node.base.store import views

    with reading(config) as (session, _):
        row = views.show_study(session, uid)
    if as_json:
        print_json(row)
        return
    parts = ("results", "jobs", "received", "steps", "events")
    hidden = (*parts, "study_instance_uid", "job_held")
    shown = {key: value for key, value in row.items() if key not in hidden}
    print_details(shown | {"state": state_in_words(row)})
    for part in parts:
        print_part(part.capitalize(), _folded(row[part]) if part == "events" else row[part], PARTS[part])


def _folded(events: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Without what is for programs; failed tries of one peer for one reason are one line that counts them."""
    tries: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for event in events:
        if event["level"] != "debug":
            is_try = event["number"] == DELIVERY_RETRIED.number
            of_try = event["fields"].get("destination"), event["fields"].get("reason")
            tries.setdefault(of_try if is_try else (id(event),), []).append(event)
    return [
        same[0]
        if len(same) == 1
        else {**same[0], "text": f"{same[0]['text']} ({len(same)} times, last at {local(same[-1]['at'])})"}
        for same in tries.values()
    ]


def _show_job(
    job: Annotated[int, typer.Argument(metavar="JOB", help="Its number, as `jobs list` shows it.")],
    config: Config,
    as_json: Json = False,
) -> None:
    """Show one job: its images, options, results."""
    from dicom_node.base.store import views

    with reading(config) as (session, _):
        row = views.show_job(session, job)
    if as_json:
        print_json(row)
    else:
        results = [f"{result['kind']} {result['sop_instance_uid']}" for result in row["results"]]
        print_details(row | {"results": results})


def _why(
    config: Config,
    asked: Annotated[
        str, typer.Argument(metavar="NAME|AE|ADDRESS", help="A peer, an AE title or an address.")
    ],
    since: Annotated[str, typer.Option("--since", metavar="WHEN", help=SINCE.help)] = "30d",
    as_json: Json = False,
) -> None:
    """List what a machine tried, what was refused, and the configuration lines that would allow it."""
    from dicom_node.people import peers

    found = peers.why(load(config), asked, moment(since))
    if as_json:
        print_json(found)
        return
    from dicom_node.people.nouns.configured import PARTS_OF_CALLER

    peer = f"is the peer {found['peer']}" if found["peer"] else "is no peer"
    say(f"{found['asked']} {peer}; seen from {', '.join(found['addresses']) or 'no address'}", bold=True)
    for heading, columns in PARTS_OF_CALLER.items():
        print_part(heading.replace("_", " ").capitalize(), found[heading], columns)
    if found["others"]:
        say("")
        say(f"From there also called (each has its own `dicom-node peers why`): {', '.join(found['others'])}")
    for advice in found["advice"] or [{"says": "There is nothing to do.", "lines": []}]:
        say("")
        say(advice["says"], bold=True)
        for line in advice["lines"]:
            say(f"    {line}")


ADDED: Final[Mapping[str, tuple[str, Callable[..., Any], str]]] = {
    "studies": ("show", _show_study, "Example: dicom-node studies show 1.2.840.113619.2.1 -c node.toml"),
    "jobs": ("show", _show_job, "Example: dicom-node jobs show 17 --config node.toml"),
    "peers": (
        "why",
        _why,
        "Example (did the ultrasound get through?): dicom-node peers why US1",
    ),
}
"""Of each noun: name, function and example."""


def group_of(name: str) -> typer.Typer:
    """The commands of a noun; its declared verbs, and those that print in a form of their own."""
    about = noun(name)
    app = group(about.about)
    for verb in about.verbs:
        why = f" ({verb.why})" if verb.why else ""
        epilog = f"Example{why}: dicom-node {name} {verb.name} {verb.example}"
        app.command(verb.name, help=verb.help, epilog=epilog)(_command(verb))
    if name in ADDED:
        verb_name, function, epilog = ADDED[name]
        app.command(verb_name, epilog=epilog)(function)
    return app


def _command(verb: Verb) -> Callable[..., int]:
    def command(*, config: Any, as_json: bool, **given: Any) -> int:
        values = {
            one.name: asked_password()
            if one.is_secret
            else one.default
            if given[one.name] is None
            else given[one.name]
            for one in verb.inputs
        }
        chosen = [one for one in verb.inputs if one.name in verb.either and values[one.name] != one.default]
        if verb.either and (not chosen or len(chosen) == len(verb.either) == 2):
            names = (one.flag or one.metavar or one.name for one in verb.inputs if one.name in verb.either)
            raise typer.BadParameter(f"give {' or '.join(names)}")
        if "limit" in values:
            values["limit"] = values["limit"] or None
        result = _done(verb, config, values)
        if verb.columns:
            print_rows(result, verb.columns, as_json=as_json, none=verb.none)
            words = verb.then if result and not as_json else ""
        else:
            words = verb.says
        if as_json and not verb.columns:
            print_json(result)
        else:
            for line in words.format(result=result, s="" if result == 1 else "s", **values).splitlines():
                say(line)
        return verb.status(result)

    shown = [
        Parameter("config", Parameter.KEYWORD_ONLY, annotation=Config),
        *(_option(one) for one in verb.inputs if not one.is_secret),
        Parameter("as_json", Parameter.KEYWORD_ONLY, annotation=Json, default=False),
    ]
    command.__signature__ = Signature(shown)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in shown}
    return command


def _done(verb: Verb, config: Sequence[Path], values: dict[str, Any]) -> Any:
    function = verb.function()
    takes = signature(function).parameters
    if "session" not in takes:
        return function(load(config), **values, **verb.fixed)
    with reading(config) as (session, settings):
        shared = {"session": session, "settings": settings}
        needed = {name: value for name, value in shared.items() if name in takes}
        return function(**needed, **values, **verb.fixed)


def _option(one: Input) -> Parameter:
    kind: Any = one.kind
    how: dict[str, Any] = {"help": one.help, "metavar": one.metavar, "min": one.least, "max": one.most}
    if not isinstance(kind, type):
        how["parser"], kind = _parser(kind), Any
    elif kind is Path:
        how["exists"] = True
    info = typer.Option(*one.flag.split(), **how) if one.flag else typer.Argument(**how)
    kind = list[kind] if one.many else kind
    if one.default is None or one.default == ():
        kind = kind | None
    default = None if one.default == () else one.default
    return Parameter(one.name, Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info], default=default)


def _parser(read: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return parse


def asked_password() -> str:
    """A password, never from an argument: every user of this machine can read those."""
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\r\n")
