"""The environment of children that read what strangers send: it has no password of the node's."""

from __future__ import annotations

import os
import re

_OF_PYTHON = re.compile(r"PATH|HOME|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|VIRTUAL_ENV|LD_LIBRARY_PATH|PYTHON\w+")


def without_secrets() -> dict[str, str]:
    """The environment variables that a Python interpreter needs, without the configuration's ``${NAME}``."""
    return {name: value for name, value in os.environ.items() if _OF_PYTHON.fullmatch(name)}
