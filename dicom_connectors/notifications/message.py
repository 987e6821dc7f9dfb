"""The text of a notification: what happened, without patients."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from dicom_node.base import events

_LONGEST_TEXT, _LONGEST_SUBJECT = 65_536, 200  # characters
_EXAMPLES = 5  # events of one number that are shown


@dataclass(frozen=True, slots=True)
class Message:
    """The content of a notification; ``content``: the same for programs."""

    subject: str
    text: str
    content: Mapping[str, Any]


def written(name: str, node: str, chosen: Sequence[tuple[int, Mapping[str, Any]]]) -> Message:
    """The message of the notification ``name`` on these events, each with its number: ``at``,
    ``fields``, ``link``, ``findings``, ``result``.
    """
    by_number: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for number, event in chosen:
        by_number[number].append(event)
    groups, lines = [], list[str]()
    for number, same in sorted(by_number.items()):
        headline = _headline(same)
        text = f"event {number}"  # of a newer version
        with suppress(KeyError):
            text = headline or events.by_number(number).text
        shown = same[:_EXAMPLES]
        group = {"number": number, "text": text, "clinical": bool(headline), "count": len(same)}
        groups.append({**group, "first": same[0]["at"], "last": same[-1]["at"], "events": shown})
        times = f", {len(same)} times" if len(same) > 1 else ""
        lines.append(text + ("" if headline else f" ({number})") + times)
        for event in shown:
            lines += [f"  {line}" for line in event["result"] or event["findings"]]
            fields = {} if event["result"] else event["fields"]
            lines += [f"  {event['link']}"] if event["link"] else []
            lines.append("".join([f"  {event['at']}", *(f"  {key}={it}" for key, it in fields.items())]))
        if len(same) > len(shown):
            lines.append(f"  and {len(same) - len(shown)} more")
        lines.append("")
    lines.append(f"Node {node}, notification {name}. Not for diagnostic use.")
    lines.append("More: dicom-node events list, or the console.")
    further = f" and {len(chosen) - 1} more" if len(chosen) > 1 else ""
    subject = " ".join(f"{node}: {groups[0]['text']}{further}".split())[:_LONGEST_SUBJECT]
    content = {"node": node, "name": name, "total": len(chosen), "groups": groups, "test": False}
    return Message(subject, "\n".join(lines)[:_LONGEST_TEXT] + "\n", content)


def _headline(same: Sequence[Mapping[str, Any]]) -> str:
    """``Suspected: Pneumothorax``, or how well the study was assessed; "" of events for an admin."""
    if named := list(dict.fromkeys(name for event in same for name in event["findings"])):
        return f"Suspected: {', '.join(named[:_EXAMPLES])}"
    return next((event["result"][0] for event in same if event["result"]), "").rstrip(".")
