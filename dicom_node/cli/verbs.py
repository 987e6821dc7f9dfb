"""Makes the command group of a noun from what is declared in ``dicom_node.nouns``."""

import sys
from collections.abc import Callable, Sequence
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import Annotated, Any

import typer

from dicom_node.cli.options import Config, Json, group, load, reading
from dicom_node.cli.output import print_json, print_rows, say
from dicom_node.cli.shown import ADDED
from dicom_node.nouns import Input, Verb, noun


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
