"""A webhook: one POST of JSON, with a deadline; redirects are not followed."""

from __future__ import annotations

import requests

from dicom_node.config.notifications import NotificationSettings
from dicom_node.notifications.message import Answer, Message
from dicom_node.scu.connections import Connections
from dicom_node.scu.http import BoundedSession, status_of

_LATER = frozenset({408, 425, 429})  # RFC 9110, RFC 8470, RFC 6585: the same may be taken another time


def call_webhook(rule: NotificationSettings, seconds: float, message: Message, key: str) -> Answer:
    """POST ``id``, ``subject``, ``text`` and the events; ``key`` is the same at each try."""
    connections = Connections(seconds)
    body = {"id": key, "subject": message.subject, "text": message.text, **message.content}
    headers = {"Idempotency-Key": key}
    if token := rule.token.get_secret_value():
        headers["Authorization"] = f"Bearer {token}"
    try:
        with connections.within(seconds), BoundedSession(connections) as session:
            answer = session.post(
                rule.url.get_secret_value(),
                json=body,
                headers=headers,
                timeout=seconds,
                auth=lambda request: request,  # instead of a login that ~/.netrc may have for this host
            )
    except requests.RequestException as error:
        status = status_of(error)
        if isinstance(error, requests.HTTPError) and status is not None:
            return Answer(False, f"redirected ({status}): enter where it leads to", for_good=True)
        if connections.timed_out or isinstance(error, requests.Timeout):
            return Answer(False, Answer.CUT_OFF)
        if isinstance(error, requests.exceptions.SSLError):
            return Answer(False, "the certificate of the server is not trusted")
        return Answer(False, "no connection, or its answer ended early")
    if answer.ok:
        return Answer(True, "")
    for_good = answer.status_code < 500 and answer.status_code not in _LATER
    return Answer(False, f"the server answers {answer.status_code}", for_good=for_good)
