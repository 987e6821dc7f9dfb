"""What all tables of the configuration share: the base class, the types of values and their checks."""

import difflib
import re
from collections.abc import Iterable
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    SerializationInfo,
)

AE_TITLE: Final = r"^[\x21-\x5b\x5d-\x7e]([\x20-\x5b\x5d-\x7e]*)$"
NAME: Final = r"^[A-Za-z0-9._-]+$"
HOST: Final = r"^[A-Za-z0-9._:%-]*$"
MODALITY: Final = r"^[A-Z0-9_*?]([A-Z0-9_ *?]*[A-Z0-9_*?])?$"  # PS3.5 6.2, CS, with the signs of patterns


def did_you_mean(word: object, known: Iterable[str], otherwise: str = "known") -> str:
    """Suggest the known word most similar to ``word`` (``did you mean us1?``); without a similar word, list
    all known words after the heading ``otherwise``.
    """
    choices = list(filter(None, dict.fromkeys(known)))
    folded = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(str(word).casefold(), folded, n=1, cutoff=0.5)
    return f"did you mean {folded[near[0]]}?" if near else f"{otherwise}: {', '.join(choices) or 'none'}"


def refuse(*faults: tuple[object, str]) -> None:
    """Raise ValueError with the remedy of the first fault that is true. ``faults``: pairs of condition and
    remedy.
    """
    for is_there, remedy in faults:
        if is_there:
            raise ValueError(remedy)


def checked_host(host: str) -> str:
    """Return the host. Raises ValueError for a malformed IPv4 address, or when the text contains a port."""
    parts = host.split(".")
    is_ipv4 = len(parts) == 4 and all(part.isdigit() and int(part) <= 255 for part in parts)
    refuse(
        (
            re.fullmatch(r"[0-9.]+", host) and not is_ipv4,
            "is not an IP address: four numbers from 0 to 255, such as 192.168.1.20",
        ),
        (host.count(":") == 1, "must be the name or address alone: the port is a key of its own"),
    )
    return host


def checked_url(url: str) -> str:
    """Return ``url`` if it is a valid base URL or "". Raises ValueError with the remedy."""
    found = re.fullmatch(r"https?://([\w.%-]+|\[[\w:.%]+\])(:(\d{1,5}))?(/.*)?", url)
    refuse(
        (url and not url.startswith(("http://", "https://")), "must begin with http:// or https://"),
        ("@" in url, "leave user and password out of it: they are keys of their own"),
        ("?" in url or "#" in url, "must end with the path: leave out ? or # and what follows"),
        (
            url and not (found and 0 < int(found[3] or 80) < 2**16),
            "write it as http://host:8042 or https://host/dicom-web",
        ),
    )
    return url


REVEALED: Final = "secrets revealed"
"""The context of a dump for a process of the node itself, by a pipe that nobody else reads."""


def _dumped(secret: SecretStr, info: SerializationInfo) -> str:
    """Serialize a secret to JSON: in plain text if the context is ``REVEALED`` (for child processes),
    otherwise as stars.
    """
    return secret.get_secret_value() if info.context == REVEALED else str(secret)


AeTitle = Annotated[str, Field(min_length=1, max_length=16, pattern=AE_TITLE)]
Secret = Annotated[SecretStr, PlainSerializer(_dumped, return_type=str)]
"""A password, or what may hold one: neither repr, str, a log, a mistake nor JSON shows it."""


class Section(BaseModel):
    """A table of the configuration: frozen once read, unknown keys are mistakes."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


Name = Annotated[str, Field(min_length=1, max_length=64, pattern=NAME)]
Host = Annotated[str, Field(max_length=255, pattern=HOST), AfterValidator(checked_host)]
Port = Annotated[int, Field(ge=1, le=65535)]
AtLeastOne = Annotated[int, Field(ge=1)]
Words = tuple[str, ...]
