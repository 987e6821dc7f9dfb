"""Status codes as data: of C-STORE (PS3.4 B.2.3, PS3.7 C), of C-MOVE and C-GET, and of HTTP."""

from __future__ import annotations

from dataclasses import dataclass

from dicom_node.scu.archive import RetrieveStatus
from dicom_node.scu.destination import SendReport, SendStatus

_S, _R = SendStatus, RetrieveStatus


@dataclass(frozen=True, slots=True)
class StatusRange:
    """The outbox's reaction to the statuses from ``first`` to ``last``."""

    first: int
    last: int
    status: SendStatus
    text: str


# The first range that holds a code counts. A7xx, 0110 and 0122 … stand before the classes that contain them.
STORE_STATUSES: tuple[StatusRange, ...] = (
    StatusRange(0x0000, 0x0000, _S.STORED, "stored"),
    StatusRange(0xB000, 0xB000, _S.WARNED, "stored, data elements coerced"),
    StatusRange(0xB006, 0xB006, _S.WARNED, "stored, elements discarded"),
    StatusRange(0xB007, 0xB007, _S.WARNED, "stored, data set does not match its SOP class"),
    StatusRange(0x0001, 0x0001, _S.WARNED, "stored, with a warning"),
    StatusRange(0x0107, 0x0107, _S.WARNED, "stored, attribute list warning"),
    StatusRange(0x0116, 0x0116, _S.WARNED, "stored, attribute value out of range"),
    StatusRange(0xB000, 0xBFFF, _S.WARNED, "stored, with a warning"),
    StatusRange(0x0111, 0x0111, _S.VERIFY, "duplicate SOP instance"),
    StatusRange(0x0110, 0x0110, _S.RETRY, "processing failure"),
    StatusRange(0x0213, 0x0213, _S.RETRY, "resource limitation"),
    StatusRange(0xFE00, 0xFE00, _S.RETRY, "cancelled by the destination"),
    StatusRange(0xA700, 0xA7FF, _S.RETRY, "out of resources"),
    StatusRange(0x0122, 0x0122, _S.REFUSED, "SOP class not supported"),
    StatusRange(0x0124, 0x0124, _S.REFUSED, "not authorized"),
    StatusRange(0xA900, 0xA9FF, _S.REFUSED, "data set does not match SOP class"),
    StatusRange(0xC000, 0xCFFF, _S.REFUSED, "cannot understand"),
)

# HTTP statuses that waiting (or a person's hand on a configuration) cures without another try being harmful.
_HTTP_RETRY = {
    401: "user name or password not accepted",
    403: "forbidden: is this user allowed to store?",
    404: "not found: is the URL right?",
    405: "no such service at this URL",
    407: "a proxy wants a password",
    408: "time-out",
    421: "wrong server",
    423: "locked",
    425: "too early",
    429: "too many requests",
}

# PS3.4 C.4.2.1.5 and C.4.3.1.4. The first range that holds a code counts.
RETRIEVE_STATUSES: tuple[tuple[int, int, RetrieveStatus, str], ...] = (
    (0x0000, 0x0000, _R.RETRIEVED, ""),
    (0xB000, 0xB000, _R.INCOMPLETE, "some objects did not come"),
    (0xA801, 0xA801, _R.REFUSED, "the peer does not know our AE title as a destination: add it there"),
    (0xA900, 0xA9FF, _R.REFUSED, "the request does not match its SOP class"),
    (0xA700, 0xA7FF, _R.RETRY, "out of resources"),
    (0xFE00, 0xFE00, _R.RETRY, "cancelled by the peer"),
    (0x0122, 0x0124, _R.REFUSED, "not supported, or not authorized"),
    (0x0000, 0xFFFF, _R.RETRY, "failure"),
)


def retrieve_status(code: int) -> tuple[RetrieveStatus, str]:
    """The outcome for the final status of a C-MOVE or C-GET, and why objects are missing ("" for success)."""
    for first, last, status, text in RETRIEVE_STATUSES:
        if first <= code <= last:
            return status, f"status {code:04X}: {text}" if text else ""
    return _R.RETRY, "failure"


def store_report(code: int | None) -> SendReport:
    """The report for a C-STORE status; None: no answer came (the association was cut off).

    Error Comment (0000,0902) is left out on purpose: free text of the peer may name a patient.
    """
    if code is None:
        return SendReport(_S.RETRY, "", "association lost before the answer")
    for meaning in STORE_STATUSES:
        if meaning.first <= code <= meaning.last:
            return SendReport(meaning.status, f"{code:04X}", meaning.text)
    return SendReport(_S.REFUSED, f"{code:04X}", "failure")


def http_report(code: int) -> SendReport:
    """The report for an HTTP status of a failed request."""
    shown = f"HTTP {code}"
    if code in _HTTP_RETRY:
        return SendReport(_S.RETRY, shown, _HTTP_RETRY[code])
    if 300 <= code < 400:
        return SendReport(_S.RETRY, shown, "it points to another address, which is not followed: correct url")
    if 400 <= code < 500:
        return SendReport(_S.REFUSED, shown, "request refused")
    return SendReport(_S.RETRY, shown, "the server has a problem")
