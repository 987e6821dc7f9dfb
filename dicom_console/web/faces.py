"""One handler, two uses: its result as JSON for programs, and as a page for people.

A handler takes typed arguments and returns a typed result, or raises a ``NodeError``. :class:`Faces`
publishes the handler below ``/api/v1``, with the request as a JSON body. For people it publishes the same
handler at the address of a page: the fields of a form replace the body and the query, and a function makes
the page from the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin, get_type_hints

from fastapi import APIRouter, Depends, HTTPException, Response, params
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, TypeAdapter, ValidationError

from dicom_console.web.access import API, Asked, Visit, needs, see_other
from dicom_node import __version__
from dicom_node.model.roles import UserRole
from dicom_node.store.views import View

VERSION: Final = f"{API}v1"
Handler = TypeVar("Handler", bound=Callable[..., Any])
Page = Callable[[Visit, Any], Response]
"""Makes the page of a handler's result."""
Reader = Callable[[Visit], BaseModel]
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
    """The routes for one kind of object, such as jobs.

    ``programs``: the REST routes below ``/api/v1``. ``people``: the web pages, also those without a REST
    route.
    """

    def __init__(self) -> None:
        self.people = APIRouter()
        self.programs = APIRouter(prefix=VERSION, responses=_STATUSES)
        self._published: dict[Callable[..., Any], tuple[str, str, UserRole]] = {}

    def handler(
        self,
        method: str,
        path: str,
        role: UserRole,
        page: Page | None = None,
        *,
        at: str = "",
        reads: Reader | None = None,
        **more: Any,
    ) -> Callable[[Handler], Handler]:
        """Publish a function in the API for programs and, if ``page`` is given, as a page for people.

        ``at``: the page's address, by default ``path``. ``reads``: converts a form into the request, if the
        form's field names differ from the request's. ``more``: keyword arguments for FastAPI.
        """

        def declare(handler: Handler) -> Handler:
            status = 204 if get_type_hints(handler)["return"] is type(None) else 200
            endpoint = needs(role)(handler)
            self.programs.add_api_route(path, endpoint, methods=[method], status_code=status, **more)
            self._published[handler] = (method, path, role)
            if page is not None:
                self.page_of(handler, at=at, reads=reads)(page)
            return handler

        return declare

    def page_of(
        self, handler: Callable[..., Any], *, at: str = "", reads: Reader | None = None
    ) -> Callable[[Page], Page]:
        """Show people the handler's result as this page. A handler that changes something is the POST of a
        form.
        """
        method, path, role = self._published[handler]
        shown_by = "GET" if method == "GET" else "POST"

        def declare(page: Page) -> Page:
            shown = needs(role)(_shown(handler, page, reads, by_form=shown_by == "POST"))
            self.people.add_api_route(at or path, shown, methods=[shown_by], response_model=None)
            return page

        return declare


def back_to(address: str, **query: str) -> Page:
    """A page that redirects the browser to ``address``; ``{number}`` in it is the number in the request."""
    return lambda asked, _result: see_other(address.format(**asked.request.path_params), **query)


def page_and_next(rows: Sequence[View], page: int, key: str) -> tuple[Sequence[View], int | None]:
    """The rows of one page, and the ``key`` of its last row if the database has more rows."""
    return rows[:page], rows[page - 1][key] if len(rows) > page else None


def described(routers: list[APIRouter]) -> dict[str, Any]:
    """The description of the REST API in the format of OpenAPI 3.1."""
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


def _shown(
    handler: Callable[..., Any], page: Page, reads: Reader | None, *, by_form: bool
) -> Callable[..., Response]:
    """The handler as an endpoint that answers with a page."""

    @wraps(handler)
    def endpoint(asked: Visit, **given: Any) -> Response:
        return page(asked, handler(asked, **given))

    hints = get_type_hints(handler, include_extras=True)
    found = signature(handler).parameters.values()
    parameters = [one.replace(annotation=hints[one.name]) for one in found]
    if by_form:
        parameters = [_of_form(one, reads) for one in parameters]
    endpoint.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return endpoint


def _of_form(parameter: Parameter, reads: Reader | None) -> Parameter:
    """The same parameter, read from a form where a program sends it as the body or in the query."""
    hint = parameter.annotation
    about = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    sent = next((one for one in about if isinstance(one, params.Body | params.Query)), None)
    if sent is None:
        return parameter
    if isinstance(sent, params.Query):
        read = _field_reader(sent.alias or parameter.name, TypeAdapter(hint), parameter.default)
    else:
        read = reads or _form_reader(get_args(hint)[0])
    return parameter.replace(annotation=Annotated[Any, Depends(_asked(read))], default=Parameter.empty)


def _asked(read: Callable[[Visit], Any]) -> Callable[..., Any]:
    def dependency(asked: Asked) -> Any:
        try:
            return read(asked)
        except ValidationError:
            raise HTTPException(400, "This address or form cannot be read.") from None

    return dependency


def _field_reader(name: str, adapter: TypeAdapter[Any], default: Any) -> Callable[[Visit], Any]:
    def read(asked: Visit) -> Any:
        text = asked.text(name)
        return adapter.validate_python(text) if text else default

    return read


def _form_reader(request: type[BaseModel]) -> Reader:
    def read(asked: Visit) -> BaseModel:
        return request.model_validate({name: asked.text(name) for name in request.model_fields})

    return read
