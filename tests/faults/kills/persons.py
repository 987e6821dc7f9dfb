"""Persons at a site: they withdraw, accept, reject and release by the command line, and are killed at it.

Whoever got no answer asks again. The command that was killed may have been carried out or not; at the end
each decision must be there once, in the audit and in its copy beside the database.
"""

import contextlib
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from dicom_node import people
from dicom_node.base.config import loading
from dicom_node.base.errors import NodeError
from dicom_node.base.lifecycle import HeldState, StudyState
from dicom_node.base.store import decision_copies
from dicom_node.base.store.tables import AuditRow, HeldResult, Result, Study, Withdrawal
from dicom_node.people import audit, studies
from tests.site_lab import Site

_KILLED = 0.25  # share of commands that are killed
_SECONDS = 2.0  # between two acts
_WITHDRAWN = 0.05  # chance of a delivered study to be looked at for it
_AT_WORK = 4.0  # seconds within which a command is killed
_ACTIONS = {
    "withdraw": "result_withdrawn",
    "accept": "results_assessed",
    "reject": "results_assessed",
    "release": "study_released",
}


@dataclass
class Persons:
    """What was decided, by study and kind; ``killed``: commands that got no answer."""

    site: Site
    chance: random.Random
    done: set[tuple[str, str]] = field(default_factory=set)
    killed: int = 0
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Decide on something every few seconds, until the stop."""
        while not self.stop.wait(_SECONDS):
            if choices := self._choices():
                self._act(*self.chance.choice(choices), killed=self.chance.random() < _KILLED)

    def finish(self, stop: threading.Event) -> None:
        """Decide on all that waits for a person, until the stop."""
        while not stop.wait(_SECONDS):
            for uid, kind in self.waiting():
                self._act(uid, kind)

    def waiting(self) -> list[tuple[str, str]]:
        """What waits for a person who has not decided yet."""
        return [choice for choice in self._choices() if choice[1] != "withdraw"]

    def _act(self, uid: str, kind: str, *, killed: bool = False) -> None:
        config = self.site.listeners[0].config
        words = ["studies", kind, uid, *self._options(uid, kind), "--config", str(config)]
        process = subprocess.Popen(
            [sys.executable, "-m", "dicom_node", *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        if killed:
            time.sleep(self.chance.uniform(0, _AT_WORK))
            process.kill()
        _, said = process.communicate()
        self.killed += process.returncode < 0
        if process.returncode == 0 or b"withdrawn before" in said:  # by a command that was killed
            self.done.add((uid, kind))

    def _options(self, uid: str, kind: str) -> list[str]:
        """Of the command; of two versions of an image the one is taken that is in force."""
        if kind == "release":
            with contextlib.suppress(NodeError):
                rows = studies.versions(loading.load([self.site.listeners[0].config]), uid)
                return [word for row in rows if row["counts"] for word in ("--take", str(row["number"]))]
        because = ["--because", "benchmark"]
        return {"withdraw": ["--reason", "quality", *because], "reject": because}.get(kind, [])

    def _choices(self) -> list[tuple[str, str]]:
        """What a person might decide now and has not decided yet."""
        named = Study.study_instance_uid.is_not(None)  # nothing is released of objects that name no study
        chosen = select(Study.study_instance_uid, Study.state).where(named)
        try:
            with people.reading(loading.load([self.site.listeners[0].config])) as session:
                states = {str(uid): state for uid, state in session.execute(chosen)}
        except NodeError:
            return []
        found = []
        for uid, state in states.items():
            if state is StudyState.QUARANTINED:
                found.append((uid, "release"))
            elif state is StudyState.UNASSESSED:
                found.append((uid, "reject" if int(uid[-1]) % 2 else "accept"))
            elif state is StudyState.DELIVERED and self.chance.random() < _WITHDRAWN:
                found.append((uid, "withdraw"))
        return [choice for choice in found if choice not in self.done]


def decided(site: Site) -> dict[str, Any]:
    """What the database, the audit and the copy say of persons' decisions."""
    settings = loading.load([site.listeners[0].config])
    files = {file.name: decision_copies.read(file) for file in decision_copies.copied(settings.node.data_dir)}
    lines = [line for line in files.values() if line is not None]
    of_study = select(Study.study_instance_uid)
    with people.reading(settings) as session:
        noted = select(AuditRow.action, Study.study_instance_uid).join(Study, Study.id == AuditRow.study_id)
        results = select(Study.study_instance_uid, HeldResult.state).join(HeldResult)
        of_result = of_study.join(Result, Result.study_id == Study.id)
        withdrawn = of_result.join(Withdrawal, Withdrawal.result_id == Result.id)
        others = of_result.where(Result.id.not_in(select(Withdrawal.result_id)))
        return {
            "audit": Counter(
                (action.value, uid)
                for action, uid in session.execute(noted.where(AuditRow.action.in_(audit.DECISIONS)))
            ),
            "copy": Counter((line["action"], line["study"]) for line in lines),
            "twice": len(lines) - len({line["id"] for line in lines}),
            "faults": [name for name, line in files.items() if line is None],
            "withdrawn": set(session.scalars(withdrawn)) - set(session.scalars(others)),
            "verdicts": {uid: verdict for uid, verdict in session.execute(results)},  # noqa: C416
            "quarantined": set(session.scalars(of_study.where(Study.state == StudyState.QUARANTINED))),
        }


def wrong(persons: Persons, said: dict[str, Any], when: str) -> Iterator[str]:
    """What of persons' decisions is lost, doubled or undone, in words."""
    holds: dict[str, Callable[[str], bool]] = {
        "withdraw": lambda uid: uid in said["withdrawn"],
        "accept": lambda uid: said["verdicts"].get(uid) is HeldState.ACCEPTED,
        "reject": lambda uid: said["verdicts"].get(uid) is HeldState.REJECTED,
        "release": lambda uid: uid not in said["quarantined"],
    }
    for uid, kind in sorted(persons.done):
        if not holds[kind](uid):
            yield f"NOT SO: {when}, {kind} of study {uid} is in force"
        if not said["audit"][_ACTIONS[kind], uid]:
            yield f"NOT SO: {when}, {kind} of study {uid} is in the audit"
    for key in said["audit"].keys() | said["copy"].keys():
        if said["audit"][key] != said["copy"][key]:
            times = f"{said['audit'][key]} and {said['copy'][key]}"
            yield f"NOT SO: {when}, {' of study '.join(key)} is as often in audit and copy: {times}"
    if said["twice"]:
        yield f"NOT SO: {when}, each decision is in its copy once"
    yield from (f"NOT SO: {when}, the copy is whole: {text}" for text in said["faults"])
