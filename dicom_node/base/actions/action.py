"""The declaration of what a person lists or does: a decorator on the function that does it.

``@Action(STUDIES, "send", "Send the newest results …", role=UserRole.OPERATOR)`` leaves the function as it
is. The inputs are its parameters that are annotated with an :class:`Input`, with types and defaults. From the
declaration follow the command (``serve/commands.py``), the list or route of the REST API and its page
(``dicom_console/web/faces.py``), and the role that the console asks for (:func:`role_of`). What has no
command declares its role alone (:func:`allowed_to`). The function notes in the audit what was done.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from inspect import Parameter, signature
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin

from dicom_node.base.actions.columns import Column
from dicom_node.base.errors import ExitCode
from dicom_node.base.lifecycle import UserRole

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Input:
    """One input of an action, in the annotation of a parameter: ``Annotated[str, Input("Only this peer.")]``.

    ``flag``: the command's option for it, such as "--state"; "" if it is a positional argument. ``reads``: a
    function that reads it from text and raises ValueError, where its type does not. ``default``: that of
    command and list, where it is not the parameter's. ``least``, ``most``: limits of a number.
    ``is_secret``: it is asked for at the terminal.

    ``name``, ``kind`` (type of one value) and ``many`` (it may be given more than once) are the parameter's.
    """

    help: str = ""
    flag: str = ""
    metavar: str | None = None
    reads: Callable[[str], Any] | None = None
    default: Any = Parameter.empty
    least: int | None = None
    most: int | None = None
    is_secret: bool = False
    name: str = ""
    kind: Any = str
    many: bool = False


@dataclass(frozen=True, eq=False, slots=True)
class Noun:
    """A kind of thing that persons list or change, such as jobs: a group of commands, a list and a page.

    ``key``: the row's key by which a list is continued on the next page. ``rows``: the name of the list in
    the REST API. ``actions``: those declared by the modules that are imported already.
    """

    name: str
    about: str
    key: str = ""
    rows: str = ""
    actions: "dict[str, Action]" = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class Action:
    """One thing that a person lists or does, declared by this decorator at its function.

    The function is called with a database session and the settings (if it has parameters of these names), and
    the inputs. Its result is printed as its type wants: rows as a table with ``columns``; a mapping by
    ``details``, a function that selects what is shown, and its lists named in ``parts`` as tables with these
    columns. ``says`` is a sentence about the result ("{result}", "{s}" for its plural, the inputs by name),
    or a function that makes it of the result and the inputs, printed below rows if there are any; ``none`` is
    printed if there are none. ``either``: names of inputs of which one is needed, and of two not both.
    ``status``: a function from the result to the exit status. ``role``: the least role that may do it at the
    console.
    """

    noun: Noun
    name: str
    help: str
    example: str = "--config node.toml"
    columns: Sequence[Column] = ()
    none: str = ""
    says: str | Callable[[Any, Mapping[str, Any]], str] = ""
    details: Callable[[Any], Mapping[str, Any]] | None = None
    parts: Mapping[str, Sequence[Column]] = field(default_factory=dict)
    either: Sequence[str] = ()
    status: Callable[[Any], int] = lambda _result: ExitCode.OK
    role: UserRole = UserRole.VIEWER
    function: Callable[..., Any] = field(init=False)

    def __call__(self, function: Function) -> Function:
        """Declare that this function does it, and return the function unchanged."""
        self.function = function
        self.noun.actions[self.name] = self
        _DECLARED[function] = self
        return allowed_to(self.role)(function)

    @property
    def inputs(self) -> list[Input]:
        """The inputs, in the order of the function's parameters."""
        parameters = signature(self.function).parameters.values()
        return [given for parameter in parameters if (given := _input_of(parameter)) is not None]


_DECLARED: dict[Callable[..., Any], Action] = {}
_ROLES: dict[Callable[..., Any], UserRole] = {}


def allowed_to(role: UserRole) -> Callable[[Function], Function]:
    """Return a decorator that declares the least role that may do at the console what a function does."""

    def declare(function: Function) -> Function:
        """Declare the role of this function, and return the function unchanged."""
        _ROLES[function] = role
        return function

    return declare


def declared(function: Callable[..., Any]) -> Action:
    """The declaration of what this function does. Raises KeyError for a function without one."""
    return _DECLARED[function]


def role_of(function: Callable[..., Any]) -> UserRole:
    """The least role that may do at the console what this function does, as its declaration says. Raises
    KeyError for a function without one.
    """
    return _ROLES[function]


def _input_of(parameter: Parameter) -> Input | None:
    """The input that the annotation of a parameter declares; None without one."""
    hint = parameter.annotation
    given = next((about for about in getattr(hint, "__metadata__", ()) if isinstance(about, Input)), None)
    if given is None:
        return None
    kind, many = _one_or_many(hint.__origin__)
    default = parameter.default if given.default is Parameter.empty else given.default
    return replace(given, name=parameter.name, kind=kind, many=many, default=default)


def _one_or_many(hint: Any) -> tuple[Any, bool]:
    """The type of one value of a parameter with this type, and whether it takes several."""
    if isinstance(hint, UnionType):  # X | None
        hint = get_args(hint)[0]
    if get_origin(hint) in (Collection, Iterable, Sequence):
        return get_args(hint)[0], True
    return hint, False


def all_of(key: str, otherwise: ExitCode = ExitCode.FAILED) -> Callable[[Any], int]:
    """Make a function from rows to an exit status: OK if ``key`` is true in all rows, else ``otherwise``."""
    return lambda rows: ExitCode.OK if all(row[key] for row in rows) else otherwise
