"""The environment of child processes that read data from strangers: it contains no password of the node."""

from __future__ import annotations

import os
import re

_OF_PYTHON = re.compile(r"PATH|HOME|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|VIRTUAL_ENV|LD_LIBRARY_PATH|PYTHON\w+")


def without_secrets() -> dict[str, str]:
    """The environment variables that a Python interpreter needs, without the configuration's ``${NAME}``."""
    return {name: value for name, value in os.environ.items() if _OF_PYTHON.fullmatch(name)}
