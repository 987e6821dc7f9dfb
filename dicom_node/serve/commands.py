"""The commands of nouns, such as ``dicom-node jobs list``, made from the declarations at the functions.

A noun's functions are imported when one of its commands is used.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from dicom_node.base.actions.action import Action, Input, Noun
from dicom_node.base.errors import NodeError
from dicom_node.serve.nouns import actions_of, find
from dicom_node.serve.printing import print_details, print_json, print_part, print_rows, prompt_password, say

if TYPE_CHECKING:
    from dicom_node.base.config.settings import Settings

Config = Annotated[
    list[Path],
    typer.Option(
        "--config",
        "-c",
        envvar="DICOM_NODE_CONFIG",
        metavar="FILE",
        help="Configuration file; may be given more than once (peers and rules in files of their own).",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table or words.")]


def load(files: Sequence[Path]) -> "Settings":
    """Load the configuration files. Raises ConfigurationError with every mistake."""
    from dicom_node.base.config import loading  # takes a moment: `--help` does without

    return loading.load(files)


@contextmanager
def reading(files: Sequence[Path]) -> Iterator[tuple[Any, "Settings"]]:
    """Context manager: a session on the database and the settings, for a list.

    Mistakes in the configuration that do not concern the database are only warned of.
    """
    from dicom_node import people
    from dicom_node.base.config import loading

    settings, mistakes = loading.load_to_read(files)
    if mistakes:
        say(f"The configuration has mistakes ({mistakes}): dicom-node check shows them.", err=True)
    with people.reading(settings) as session:
        yield session, settings


def group(about: str, kind: type[TyperGroup] = TyperGroup) -> typer.Typer:
    """Make a command group with this help text, which stays a group even if it has only one verb (typer would
    turn that verb into the group itself).
    """
    app = typer.Typer(no_args_is_help=True, help=about, cls=kind)
    app.callback()(lambda: None)
    return app


def group_of(noun: Noun) -> typer.Typer:
    """Make the command group of a noun, with a command for each action that is declared for it."""

    class Commands(TyperGroup):
        """The commands of the noun; what declares them is imported when they are asked for."""

        def list_commands(self, ctx: Any) -> list[str]:
            """The names of the commands, in the order of the help."""
            return [*(action.name for action in actions_of(noun)), *super().list_commands(ctx)]

        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            """The command of this name; None if there is none."""
            action = find(noun, cmd_name)
            return super().get_command(ctx, cmd_name) if action is None else _command_of(action)

    return group(noun.about, Commands)


def _command_of(action: Action) -> Any:
    """The command of an action, as typer makes it."""
    app = typer.Typer(add_completion=False)
    example = f"Example: dicom-node {action.noun.name} {action.name} {action.example}"
    app.command(action.name, help=action.help, epilog=example)(carries_out(action))
    return get_command(app)


def carries_out(action: Action) -> Callable[..., int]:
    """Make the function that carries out an action, with the signature from which typer makes its options."""

    def command(*, config: Any, as_json: bool, **typed: Any) -> int:
        """Carry out the action with the inputs as typed, and print its result; returns the exit status."""
        values = _values(action, typed)
        _check_either(action, values)
        result = _result(action, config, values)
        if as_json:
            print_json(result)
        else:
            _print(action, result, values)
        return action.status(result)

    shown = [
        Parameter("config", Parameter.KEYWORD_ONLY, annotation=Config),
        *(_option(given) for given in action.inputs if not given.is_secret),
        Parameter("as_json", Parameter.KEYWORD_ONLY, annotation=Json, default=False),
    ]
    command.__signature__ = Signature(shown)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    return command


def _values(action: Action, typed: Mapping[str, Any]) -> dict[str, Any]:
    """The value of each input by its name: as typed or by default; one that is secret is asked for."""
    values: dict[str, Any] = {}
    for given in action.inputs:
        if given.is_secret:
            values[given.name] = prompt_password()
        else:
            values[given.name] = given.default if typed[given.name] is None else typed[given.name]
    if "limit" in values:
        values["limit"] = values["limit"] or None  # 0: all
    return values


def _check_either(action: Action, values: Mapping[str, Any]) -> None:
    """Raise typer.BadParameter if none is given of the inputs of which one is needed, or both of two."""
    choices = [given for given in action.inputs if given.name in action.either]
    chosen = [given for given in choices if values[given.name] != given.default]
    if choices and (not chosen or len(chosen) == len(choices) == 2):
        names = (given.flag or given.metavar or given.name for given in choices)
        raise typer.BadParameter(f"give {' or '.join(names)}")


def _result(action: Action, config: Sequence[Path], values: Mapping[str, Any]) -> Any:
    """Call the function of the action with these values, and with a session if it reads the database."""
    takes = signature(action.function).parameters
    if "session" not in takes:
        return action.function(load(config), **values)
    with reading(config) as (session, settings):
        shared = {"session": session, "settings": settings}
        return action.function(**{name: shared[name] for name in shared if name in takes}, **values)


def _print(action: Action, result: Any, values: Mapping[str, Any]) -> None:
    """Print a result for a person: as table, as details, and what the action says of it."""
    if action.columns:
        print_rows(result, action.columns, action.none)
    elif action.details:
        shown = action.details(result)
        print_details({key: shown[key] for key in shown if key not in action.parts})
        for part, columns in action.parts.items():
            print_part(part, shown[part], columns)
    if action.says and (result or not action.columns):
        if isinstance(action.says, str):
            text = action.says.format(result=result, s="" if result == 1 else "s", **values)
        else:
            text = action.says(result, values)
        for line in text.splitlines():
            say(line)


def _option(given: Input) -> Parameter:
    """Make the parameter of typer for an input of an action."""
    kind: Any = given.kind
    how: dict[str, Any] = {
        "help": given.help,
        "metavar": given.metavar,
        "min": given.least,
        "max": given.most,
    }
    if given.reads:
        how["parser"], kind = _parser(given.reads), Any
    elif kind is Path:
        how["exists"] = True
    info = typer.Option(*given.flag.split(), **how) if given.flag else typer.Argument(**how)
    kind = list[kind] if given.many else kind
    if given.default is None or given.default == ():
        kind = kind | None
    return Parameter(
        given.name,
        Parameter.KEYWORD_ONLY,
        annotation=Annotated[kind, info],
        default=None if given.default == () else given.default,
    )


def _parser(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Make a parser for typer from a function that raises ValueError or NodeError for an invalid text."""

    def parse(text: str) -> Any:
        """The value of the text. Raises typer.BadParameter."""
        try:
            return read(text)
        except (ValueError, NodeError) as error:
            raise typer.BadParameter(str(error)) from None

    return parse
