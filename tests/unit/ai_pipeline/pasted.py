"""Examples of the documentation as a person pastes them."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


def pasted(document: str, language: str, first: str) -> str:
    """The block of that language that begins with these words."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.S)
    return next(str(block) for block in blocks if str(block).startswith(first))
