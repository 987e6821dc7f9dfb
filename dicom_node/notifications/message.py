"""The text of a notification: Jinja2 templates in a sandbox, without patients unless the settings allow
them.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dicom_node import events
from dicom_node.config.notifications import NotificationSettings
from dicom_node.errors import FaultyInput

LONGEST_TEXT = 65_536
"""Characters."""
MAXIMUM_ANSWER_BYTES = 2**20
"""Of a server that a message is handed to."""
_LONGEST_SUBJECT = 200
_LONGEST_TEMPLATE = 65_536
_EXAMPLES = 5  # events of one number that are shown
_SUBJECT = "{{ node }}: {{ groups[0].text }}{% if total > 1 %} and {{ total - 1 }} more{% endif %}"
_TEXT = """\
{% for group in groups %}
{{ group.text }}{% if not group.clinical %} ({{ group.number }}){% endif %}
{% if group.count > 1 %}, {{ group.count }} times{% endif %}

{% for event in group.events %}
{% for line in event.result or event.findings %}
  {{ line }}
{% endfor %}
{% if event.link %}  {{ event.link }}
{% endif %}
  {{ event.at }}{% for key, it in event.fields.items() if not event.result %}  {{ key }}={{ it }}{% endfor %}

{% endfor %}
{% if group.count > group.events | length %}  and {{ group.count - group.events | length }} more
{% endif %}

{% endfor %}
Node {{ node }}, notification {{ name }}. Not for diagnostic use.
More: dicom-node events list, or the console.
"""


@dataclass(frozen=True, slots=True)
class TemplateEvent:
    """One event for a template: ``at`` is UTC in ISO 8601, ``fields`` contain no PHI."""

    number: int
    at: str
    fields: Mapping[str, Any]
    findings: Sequence[str] = ()
    result: Sequence[str] = ()
    """The short result of the reports with these findings: their lines."""
    patient: Mapping[str, str] | None = None
    """``patient_id`` and ``accession_number``, None where the settings do not name patients."""
    link: str = ""
    """To its study in the console, "" without ``console.url``."""


@dataclass(frozen=True, slots=True)
class Message:
    """The content of a notification."""

    subject: str
    text: str
    content: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Answer:
    """The outcome of sending, in our words, because a server's answer may quote the message.

    ``taken``: the message is sent. ``for_good``: another try would not help.
    """

    taken: bool
    text: str
    for_good: bool = False

    CUT_OFF: ClassVar[str] = "cut off: the server was too slow"


def written(rule: NotificationSettings, node: str, chosen: Sequence[TemplateEvent]) -> Message:
    """The message on these events. If a site's template fails, the default is used and names the fault."""
    content = _content(rule, node, chosen)
    try:
        return _rendered(content, rule.subject or _SUBJECT, _template(rule))
    except FaultyInput as error:
        plain = _rendered(content, _SUBJECT, _TEXT)
        return Message(plain.subject, f"{plain.text}\n{error}\n", content)


def check_templates(rule: NotificationSettings) -> None:
    """Render one example message with every kind of event. Raises FaultyInput."""
    patient = {"patient_id": "example", "accession_number": "example"} if rule.names_patients else None
    examples = [
        TemplateEvent(
            kind.number, "2026-01-02T03:04:05Z", {"reason": "example"}, ["example"], ["example"], patient
        )
        for kind in events.all_types()
    ]
    _rendered(_content(rule, "AINODE", examples), rule.subject or _SUBJECT, _template(rule))


def test_message(rule: NotificationSettings, node: str) -> Message:
    """The content of a test message."""
    return Message(
        f"{node}: test of the notification {rule.name}",
        f"This is a test of the notification {rule.name} of {node}. Nothing has happened.\n",
        {"node": node, "name": rule.name, "total": 0, "groups": [], "test": True},
    )


def _content(rule: NotificationSettings, node: str, chosen: Sequence[TemplateEvent]) -> dict[str, Any]:
    """Plain values only: the same goes to templates, webhooks and the database."""
    by_number: dict[int, list[TemplateEvent]] = defaultdict(list)
    for event in chosen:
        by_number[event.number].append(event)
    groups = [
        {
            "number": number,
            "text": _headline(same) or _text_of(number),
            "clinical": bool(_headline(same)),
            "count": len(same),
            "first": same[0].at,
            "last": same[-1].at,
            "events": [_event(event) for event in same[:_EXAMPLES]],
        }
        for number, same in sorted(by_number.items())
    ]
    return {"node": node, "name": rule.name, "total": len(chosen), "groups": groups, "test": False}


def _event(event: TemplateEvent) -> dict[str, Any]:
    shown = {key: value for key, value in event.fields.items() if value not in (None, "", [])}
    return {
        "at": event.at,
        "fields": shown,
        "link": event.link,
        "findings": list(event.findings),
        "result": list(event.result),
        **(event.patient or {}),
    }


def _headline(same: Sequence[TemplateEvent]) -> str:
    """``Suspected: Pneumothorax``, or how well the study was assessed; "" of events for an admin."""
    named = list(dict.fromkeys(name for event in same for name in event.findings))
    if named:
        return f"Suspected: {', '.join(named[:_EXAMPLES])}"
    return next((event.result[0] for event in same if event.result), "").rstrip(".")


def _text_of(number: int) -> str:
    try:
        return events.by_number(number).text
    except KeyError:  # of a newer version
        return f"event {number}"


def _template(rule: NotificationSettings) -> str:
    """Raises FaultyInput."""
    if rule.template is None:
        return _TEXT
    try:
        with rule.template.open(encoding="utf-8") as file:
            text = file.read(_LONGEST_TEMPLATE + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise FaultyInput(f"the template cannot be read: {type(error).__name__}") from None
    if len(text) > _LONGEST_TEMPLATE:
        raise FaultyInput(f"the template is longer than {_LONGEST_TEMPLATE} characters")
    return text


def _rendered(content: Mapping[str, Any], subject: str, text: str) -> Message:
    """Raises FaultyInput, without values."""
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, autoescape=False
    )
    values = json.loads(json.dumps(content))
    one_line = " ".join(_output(environment, subject, values, "subject").split())
    return Message(one_line[:_LONGEST_SUBJECT], _output(environment, text, values, "template"), content)


def _output(
    environment: ImmutableSandboxedEnvironment, template: str, values: Mapping[str, Any], what: str
) -> str:
    pieces: list[str] = []
    length = 0
    try:
        for piece in environment.from_string(template).generate(values):
            pieces.append(piece)
            length += len(piece)
            if length > LONGEST_TEXT:
                raise FaultyInput(f"the {what} makes more than {LONGEST_TEXT} characters")
    except (TemplateError, ArithmeticError, TypeError, ValueError, LookupError, RecursionError) as error:
        # What Jinja2 says of a template; other errors may quote values.
        said = getattr(error, "message", None) if isinstance(error, TemplateError) else None
        line = f" (line {number})" if (number := getattr(error, "lineno", None)) else ""
        raise FaultyInput(f"the {what} fails: {type(error).__name__}{line}: {said or ''}") from None
    return "".join(pieces)
