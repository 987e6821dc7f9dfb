"""What a failed HTTP request means to the outbox; shared by the ends that speak HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import requests

from dicom_node.scu.destination import Outgoing, SendReport, SendStatus
from dicom_node.scu.statuses import http_report

# To connect, and to answer: a server may store and index a 500 MB cine before it answers.
CONNECT_SECONDS, ANSWER_SECONDS = 10.0, 120.0


def status_of(error: requests.RequestException) -> int | None:
    """The HTTP status of a refused request, None when there was no answer."""
    return error.response.status_code if error.response is not None else None


def problem(error: requests.RequestException) -> SendReport:
    """The report for any failure of ``requests``. Its own text is not kept: it may quote the answer."""
    status = status_of(error)
    if isinstance(error, requests.HTTPError) and status is not None:
        return http_report(status)
    if isinstance(error, requests.ReadTimeout):
        return SendReport(SendStatus.RETRY, "", "no answer in time")
    if isinstance(error, requests.JSONDecodeError):
        return SendReport(SendStatus.RETRY, "", "the answer is not JSON: is the URL right?")
    return SendReport(SendStatus.UNREACHABLE, "", "no connection")


def one_by_one(objects: Sequence[Outgoing], send: Callable[[Outgoing], SendReport]) -> list[SendReport]:
    """Send each object for itself; after the first that finds nobody, the rest are not tried."""
    reports: list[SendReport] = []
    for item in objects:
        unreachable = bool(reports) and reports[-1].status is SendStatus.UNREACHABLE
        reports.append(reports[-1] if unreachable else send(item))
    return reports
