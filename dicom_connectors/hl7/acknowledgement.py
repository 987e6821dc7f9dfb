"""The acknowledgement of a message (HL7 2.5.1 chapter 2.9): its code, and the message that it answers.

Its texts (MSA-3, ERR-7, ERR-8) are left out on purpose: they may name a patient. It is parsed by a few lines
here, not by the library, whose parser builds the whole message and fails in many ways on input that is no
HL7.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

ACCEPTED: Final = frozenset({"AA", "CA"})
REFUSED: Final[Mapping[str, str]] = {
    "AE": "the receiver found an error in the message",
    "AR": "the receiver rejects the message",
    "CE": "the receiver found an error in the message",
    "CR": "the receiver rejects the message",
}
# HL7 table 0357. Codes of other tables are not shown: a receiver could put any text there.
_CONDITIONS: Final[Mapping[str, str]] = {
    "100": "segment sequence error",
    "101": "required field missing",
    "102": "data type error",
    "103": "table value not found",
    "200": "unsupported message type",
    "201": "unsupported event code",
    "202": "unsupported processing id",
    "203": "unsupported version id",
    "204": "unknown key identifier",
    "205": "duplicate key identifier",
    "206": "application record locked",
    "207": "application internal error",
}


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """MSA-1, MSA-2, and the first known error condition, "" without one."""

    code: str
    control_id: str
    condition: str = ""

    @property
    def shown(self) -> str:
        """Code and condition for lists and events, such as ``AE 101``."""
        return f"{self.code} {self.condition}".strip()

    @property
    def text(self) -> str:
        """Why the receiver refused the message, in the node's words; "" if it was accepted."""
        about = _CONDITIONS.get(self.condition)
        return REFUSED.get(self.code, "") + (f": {about}" if about else "")


def parsed_acknowledgement(block: bytes) -> Acknowledgement | None:
    """Read an answer; None if it is no acknowledgement."""
    text = block.decode("latin-1")  # what is read here is ASCII in each character set of MSH-18
    segments = [line.strip() for line in text.replace("\n", "\r").split("\r")]
    header = next((line for line in segments if line.startswith("MSH")), "")
    if len(header) < 5:
        return None
    bar, caret = header[3], header[4]
    rows = [line.split(bar) for line in segments]
    msa = next((row for row in rows if row[0] == "MSA" and len(row) > 2), None)
    if msa is None or msa[1] not in {*ACCEPTED, *REFUSED}:
        return None
    # 2.5 has the condition in ERR-3; versions before it had it in MSA-6 and in the last component of ERR-1.
    found = [row[3].split(caret)[0] for row in rows if row[0] == "ERR" and len(row) > 3]
    found += [part for row in rows if row[0] == "ERR" and len(row) > 1 for part in row[1].split(caret)[3:4]]
    found += [msa[6].split(caret)[0]] if len(msa) > 6 else []
    condition = next((one for one in found if one in _CONDITIONS), "")
    return Acknowledgement(msa[1], msa[2].strip(), condition)
