"""What a handler gets of a request, and how it is published: as JSON for programs, as a page for people.

A handler takes typed arguments and returns a typed result, or raises a ``NodeError``. :class:`Faces`
publishes the handler below ``/api/v1``, with the request as a JSON body. For people it publishes the same
handler at the address of a page: the fields of a form replace the body and the query, and a function makes
the page from the result.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from threading import Semaphore
from typing import Annotated, Any, Concatenate, Final, ParamSpec, TypeVar, get_args, get_type_hints
from urllib.parse import urlencode

from fastapi import (
    APIRouter,
    BackgroundTasks,
    Body,
    Depends,
    HTTPException,
    Path,
    Query,
    Request,
    Response,
    params,
)
from fastapi.openapi.utils import get_openapi
from fastapi.responses import RedirectResponse
from pydantic import AfterValidator, BaseModel, TypeAdapter, ValidationError, create_model
from starlette.datastructures import FormData

from dicom_console.views import listing
from dicom_console.web.access import (
    API,
    Allowed,
    Endpoint,
    NotSignedIn,
    Site,
    admitted,
    csrf_of,
    language_of,
    needs,
)
from dicom_console.web.pages import render
from dicom_node import __version__
from dicom_node.base.actions.action import Input, Noun, declared
from dicom_node.base.config.settings import Settings
from dicom_node.base.dicom.identity import patient_id_of
from dicom_node.base.store.views import View
from dicom_node.people import PRINTABLE, Because, Row, ServiceResult, audit, entered
from dicom_node.people.audit import Person
from dicom_node.people.users import User

VERSION: Final = f"{API}v1"
ROWS: Final = 100
"""Of one page of a list."""
Given = ParamSpec("Given")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class ConsoleRequest:
    """One request to the console, as handlers get it: user, session and form fields.

    ``form`` is filled only for requests that change something.
    """

    http: Request
    site: Site
    token: str
    signed_in: User | None
    form: FormData
    tasks: BackgroundTasks
    """What is done once the answer is sent."""

    @property
    def settings(self) -> Settings:
        """The settings of the node."""
        return self.site.settings

    @property
    def user(self) -> User:
        """The signed-in user, for endpoints that need a role. Raises NotSignedIn."""
        if self.signed_in is None:
            raise NotSignedIn
        return self.signed_in

    @property
    def person(self) -> Person:
        """The user's name and the request's network address, for the audit."""
        return Person(self.user.name, self.address)

    @property
    def address(self) -> str:
        """The network address of the client, "" if unknown."""
        return self.http.client.host if self.http.client else ""

    @property
    def agent(self) -> str:
        """The browser's User-Agent header, "" without one."""
        return self.http.headers.get("user-agent", "")

    def read(
        self, question: Callable[Concatenate[Any, Given], Answer], *given: Given.args, **how: Given.kwargs
    ) -> Answer:
        """Call ``question`` with a read-only database session and the further arguments, and return its
        result.
        """
        with self.site.database.read() as session:
            return question(session, *given, **how)

    def note_list(self, name: str) -> None:
        """Record in the audit that the person sees a list of studies or patients."""
        audit.note_list(self.site.database, self.person, name)

    def note_sight(self, study: int) -> None:
        """Record in the audit that the person sees a study, before it is shown; ``study``: its number."""
        audit.note_sight(self.site.database, self.person, study)

    def named(self, rows: Sequence[View | Row]) -> dict[str, View]:
        """Return the fields with which a list names the studies that ``rows`` mention, by UID."""
        return self.read(listing.named, self.settings, rows)

    def text(self, name: str) -> str:
        """Return the form field ``name`` without outer blanks; "" if it is missing or a file."""
        value = self.form.get(name, "")
        return value.strip() if isinstance(value, str) else ""

    def patient_id(self) -> str:
        """Return the Patient ID in the form field ``patient``, at most 64 characters; "" if there is none."""
        return patient_id_of("".join(self.fields().get("patient", ())[:1]))[:64]

    def fields(self) -> dict[str, list[str]]:
        """Return the values of each text field of the form, by its name."""
        return {
            key: [value for value in self.form.getlist(key) if isinstance(value, str)] for key in self.form
        }

    def query(self, name: str) -> str:
        """Return the value of the query parameter ``name``; "" if it is missing."""
        return self.http.query_params.get(name, "")

    def study_uid(self, number: int) -> str:
        """Return the Study Instance UID of study ``number`` or, if it has none, the name that lists show for
        it.

        Raises NotFound.
        """
        return self.read(listing.uid, number)

    def number(self, name: str) -> int:
        """Return the form field ``name`` as a whole number; 0 if it is none."""
        value = self.text(name)
        return int(value) if value.isdecimal() and len(value) < 10 else 0

    def take_over(self) -> None:
        """Let the node load the changed configuration once the response is sent."""
        self.tasks.add_task(entered.apply_now, self.settings)

    def in_force(self, what: str, address: str, *besides: str, name: str = "") -> Response:
        """Return the page that says that a configuration change is saved, and leads on to ``address``.

        ``what``: its text, with the placeholder ``%(name)s`` for ``name``; ``besides``: warnings, with which
        the page stays until the user continues.
        """
        mark = self.site.mark
        return self.page("in_force.html", what=what, name=name, address=address, besides=besides, mark=mark)

    def list_page(self, noun: Noun, found: Any, **values: Any) -> Response:
        """Return the page of a list, and record in the audit that the person saw it.

        ``noun``: the declaration of the list; ``found``: its rows, as the API returns them.
        """
        self.note_list(noun.name)
        first = not self.query("before")
        rows, state = found[noun.rows], self.query("state")
        return self.page(f"{noun.name}.html", rows=rows, more=found.next, first=first, state=state, **values)

    def page(self, template: str, status: int = 200, *, token: str = "", **values: object) -> Response:
        """Return the page made of a template and ``values``.

        ``token``: the session token that its forms are bound to, "" for that of the request.
        """
        return render(
            template,
            status,
            user=self.signed_in,
            language=language_of(self.http),
            csrf=csrf_of(token or self.token),
            path=self.http.url.path,
            **values,
        )


async def console_request(request: Request, tasks: BackgroundTasks) -> ConsoleRequest:
    """Return the request for a handler, after checking that its user may make it.

    Raises NotSignedIn or HTTPException.
    """
    user, form = await admitted(request)
    site: Site = request.app.state.site
    return ConsoleRequest(request, site, site.token_of(request), user, form, tasks)


def see_other(path: str, **query: str) -> Response:
    """Return a redirect (303) to ``path`` with those query parameters that are not empty."""
    given = urlencode({key: value for key, value in query.items() if value})
    return RedirectResponse(f"{path}?{given}" if given else path, status_code=303)


Name = Annotated[str, Path(max_length=64, pattern=PRINTABLE)]
"""The name of a peer or a rule."""
Edition = Annotated[int | None, Query(alias="version", ge=0, le=2**31 - 1)]
"""Of the one that is changed, 0 to add one: another one is refused. Without it whichever is there."""
DespiteHold = Annotated[bool, Query()]
"""It may send at once what another rule holds for a person; without it that is refused (409)."""
Keys = Annotated[dict[str, Any], Body(max_length=200)]
"""The keys of one peer or rule, as the configuration file has them; without its name, which stands in the
address."""
Text = Annotated[str, Query(max_length=64, pattern=r"^[^\x00-\x1f]*$")]
"""A filter of a list, as a person types it."""
CurrentRequest = Annotated[ConsoleRequest, Depends(console_request)]
Number = Annotated[int, Path(ge=1, le=2**31 - 1)]
"""A number in an address: what the database cannot hold is none."""
Since = Annotated[int | None, Query(ge=1, le=2**31 - 1)]
"""The last row of the page before, None for the first page."""


Page = Callable[[ConsoleRequest, Any], Response]
"""Makes the page of a handler's result."""
Reader = Callable[[ConsoleRequest], BaseModel]
"""Makes the request of a handler from the fields of a form."""


class ErrorText(BaseModel):
    """The body of an error answer: why the request was refused or failed."""

    error: str


_STATUSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorText, "description": "The address or the body cannot be read"},
    401: {"model": ErrorText, "description": "No token, or one that is not valid"},
    403: {"model": ErrorText, "description": "The user of this token may not do this"},
    404: {"model": ErrorText, "description": "There is no such thing"},
    409: {"model": ErrorText, "description": "Its state does not allow this now"},
    503: {"model": ErrorText, "description": "Database away, or too much at once: try again"},
}


class Faces:
    """The routes for one kind of thing, such as jobs: REST routes for programs, and web pages for people.

    ``programs``: routes below /api/v1; ``people``: pages.
    """

    def __init__(self) -> None:
        self.people = APIRouter()
        self.programs = APIRouter(prefix=VERSION, responses=_STATUSES)
        self._published: dict[Callable[..., Any], tuple[str, str, Allowed]] = {}

    def handler(
        self,
        method: str,
        path: str,
        role: Allowed,
        page: Page | None = None,
        *,
        at: str = "",
        reads: Reader | None = None,
        **more: Any,
    ) -> Callable[[Endpoint], Endpoint]:
        """Return a decorator that publishes a function as REST route and, with ``page``, also as web page.

        ``role``: the role that it needs, or a function that declares it; ``page``: makes the page from the
        function's result; ``at``: the page's address, "" for ``path``; ``reads``: converts a form whose
        fields differ from the request's; ``more``: arguments for FastAPI.
        """

        def declare(handler: Endpoint) -> Endpoint:
            """Publish the function, and return it unchanged."""
            status = 204 if get_type_hints(handler)["return"] is type(None) else 200
            endpoint = needs(role)(handler)
            self.programs.add_api_route(path, endpoint, methods=[method], status_code=status, **more)
            self._published[handler] = (method, path, role)
            if page is not None:
                self.page_of(handler, at=at, reads=reads)(page)
            return handler

        return declare

    def list_of(self, find: Callable[..., Any]) -> Callable[..., Any]:
        """Publish the list that the function ``find`` declares as REST route, with its inputs as query
        parameters; return the handler.
        """
        listing = declared(find)
        noun, inputs = listing.noun, [given for given in listing.inputs if given.name != "limit"]
        keys: dict[str, Any] = {noun.rows: (list[Row], ...), "next": (int | None, ...)}
        answer = create_model(noun.name.title(), __base__=ServiceResult, **keys)

        def listed(request: ConsoleRequest, before: int | None, **given: Any) -> Any:
            """Return one page of rows, and the key from which the next page goes on."""
            wanted = {one.name: given[one.name] or one.default for one in inputs}
            if "settings" in signature(find).parameters:
                wanted["settings"] = request.settings
            rows = request.read(find, limit=ROWS + 1, before=before, **wanted)
            more = rows[ROWS - 1][noun.key] if len(rows) > ROWS else None
            return answer(**{noun.rows: [Row(**row) for row in rows[:ROWS]], "next": more})

        queries = [
            Parameter("request", Parameter.KEYWORD_ONLY, annotation=CurrentRequest),
            *map(_query, inputs),
        ]
        queries.append(Parameter("before", Parameter.KEYWORD_ONLY, annotation=Since, default=None))
        listed.__signature__ = Signature(queries, return_annotation=answer)  # type: ignore[attr-defined]
        listed.__annotations__ = {query.name: query.annotation for query in queries} | {"return": answer}
        listed.__name__, listed.__doc__ = f"list_{noun.name}", listing.help
        return self.handler("GET", f"/{noun.name}", find)(listed)

    def action_of(self, change: Callable[..., Any], page: Page, name: str = "") -> None:
        """Publish the action that the function ``change`` declares, for one row, as REST route and form, such
        as POST /outbox/{number}/discard.

        ``page``: makes the page shown afterwards; ``name``: the action in the address, "" for its verb. A
        reason that the action needs comes in the body or form.
        """
        action = declared(change)

        def done(request: ConsoleRequest, number: int, why: Because | None = None) -> None:
            """Call the function for the row ``number``, with the reason ``why`` if the action needs one."""
            given = {} if why is None else {"because": why.because}
            change(request.settings, [number], by=request.person, **given)

        hints: dict[str, Any] = {"request": CurrentRequest, "number": Number}
        if any(given.name == "because" for given in action.inputs):
            hints["why"] = Annotated[Because, Body()]
        parameters = [Parameter(key, Parameter.KEYWORD_ONLY, annotation=hint) for key, hint in hints.items()]
        done.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        done.__annotations__ = {**hints, "return": None}
        done.__name__, done.__doc__ = f"{action.name}_{action.noun.name}", action.help
        self.handler("POST", f"/{action.noun.name}/{{number}}/{name or action.name}", change, page)(done)

    def page(
        self, method: str, path: str, role: Allowed, *, reads_form: bool = False, counts: bool = True
    ) -> Callable[[Endpoint], Endpoint]:
        """Return a decorator that publishes a function as web page only.

        The other arguments are those of ``needs``.
        """

        def declare(endpoint: Endpoint) -> Endpoint:
            """Publish the function, and return it unchanged."""
            shown = needs(role, reads_form=reads_form, counts=counts)(endpoint)
            self.people.add_api_route(path, shown, methods=[method])
            return endpoint

        return declare

    def page_of(
        self, handler: Callable[..., Any], *, at: str = "", reads: Reader | None = None
    ) -> Callable[[Page], Page]:
        """Return a decorator for a function that makes a web page of the result of ``handler``; the page is
        published.

        ``at``: its address, "" for that of the REST route; ``reads``: converts a form whose fields differ
        from the request's. If the handler changes something, the page is the POST of a form.
        """
        method, path, role = self._published[handler]
        shown_by = "GET" if method == "GET" else "POST"

        def declare(page: Page) -> Page:
            """Publish the page, and return the function unchanged."""

            @needs(role)
            @wraps(handler)
            def endpoint(request: ConsoleRequest, **given: Any) -> Response:
                """Call the handler, and return the page of its result."""
                return page(request, handler(request, **given))

            hints = get_type_hints(handler, include_extras=True)
            parameters = signature(handler).parameters.values()
            typed = [one.replace(annotation=hints[one.name]) for one in parameters]
            sent = typed if shown_by == "GET" else [_of_form(one, reads) for one in typed]
            endpoint.__signature__ = Signature(sent)  # type: ignore[attr-defined]
            self.people.add_api_route(at or path, endpoint, methods=[shown_by], response_model=None)
            return page

        return declare


def back_to(address: str, **query: str) -> Page:
    """Return a page function that redirects to ``address``, with ``query``; {number} in it becomes the
    request's number.
    """
    return lambda request, _result: see_other(address.format(**request.http.path_params), **query)


def back_to_form(place: str) -> Page:
    """Return a page function that redirects to the page whose form was sent: the page of the form's study,
    else the list at ``place``.
    """

    def page(request: ConsoleRequest, _result: Any) -> Response:
        """Redirect to the page whose form was sent."""
        if request.text("study").isdecimal():
            return see_other(f"/studies/{request.text('study')}")
        return see_other(place, state=request.text("state")[:16], to=request.text("to")[:64])

    return page


@contextmanager
def one_of(places: Semaphore, else_said: str) -> Iterator[None]:
    """Context manager that takes one of the semaphore's places for slow work.

    Raises HTTPException 503 with the text ``else_said`` if none is free.
    """
    if not places.acquire(blocking=False):
        raise HTTPException(503, else_said)
    try:
        yield
    finally:
        places.release()


def described(routers: list[APIRouter]) -> dict[str, Any]:
    """Return the description of the REST API in the format OpenAPI 3.1."""
    found = get_openapi(
        title="DICOM AI node",
        version=__version__,
        routes=[route for router in routers for route in router.routes],
        description="Not for diagnostic use. Each token belongs to a user and has that user's rights.",
    )
    bearer = {"type": "http", "scheme": "bearer"}
    found.setdefault("components", {})["securitySchemes"] = {"token": bearer}
    for operations in found["paths"].values():
        for operation in operations.values():  # what cannot be read is 400 here
            operation["responses"].pop("422", None)
    return found | {"security": [{"token": []}]}


def _query(given: Input) -> Parameter:
    """Return a list's input as query parameter, named as the command's option."""
    item = Annotated[str, AfterValidator(given.reads or given.kind)]
    hint: Any = list[item] if given.many else item
    name = given.flag.removeprefix("--")
    return Parameter(
        given.name,
        Parameter.KEYWORD_ONLY,
        annotation=Annotated[hint | None, Query(alias=name, max_length=64, description=given.help)],
        default=None,
    )


def _of_form(parameter: Parameter, reads: Reader | None) -> Parameter:
    """Return a handler's parameter, changed to be read from a form in place of body or query.

    ``reads``: converts the form, None if its fields have the names of the request's.
    """
    hint = parameter.annotation
    about = getattr(hint, "__metadata__", ())
    sent = next((one for one in about if isinstance(one, params.Body | params.Query)), None)
    if sent is None:
        return parameter
    adapter: TypeAdapter[Any] = TypeAdapter(hint)

    def read(request: CurrentRequest) -> Any:
        """Return the parameter's value from the form. Raises HTTPException if it is not valid."""
        try:
            if isinstance(sent, params.Query):
                text = request.text(sent.alias or parameter.name)
                return adapter.validate_python(text) if text else parameter.default
            if reads:
                return reads(request)
            names = get_args(hint)[0].model_fields
            return adapter.validate_python({name: request.text(name) for name in names})
        except ValidationError:
            raise HTTPException(400, "This address or form cannot be read.") from None

    return parameter.replace(annotation=Annotated[Any, Depends(read)], default=Parameter.empty)
