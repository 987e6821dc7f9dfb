"""A rule's program tried at the console: its process, its state in files, and that nothing of it is left."""

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dicom_node.base.errors import NotAllowedNow, NotFound
from dicom_node.base.store.tables import Delivery, Instance, Job, Result
from dicom_node.base.store.views import View
from dicom_node.people import tried_programs
from tests import ct_lab
from tests.inbox_lab import Inbox
from tests.unit.people.test_program_trial import DERIVES
from tests.waiting import wait_until

SLICES = ct_lab.ct_slices("one", 2, side=32)
HANGS = "import time; time.sleep(600)"
FAILS = "import sys; sys.exit('no weights for Test^one')"
Make = Callable[[str], Inbox]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Make]:
    """Makes a node with a study that a rule gives to a program of these lines."""
    made: list[Inbox] = []

    def make(code: str) -> Inbox:
        script = ct_lab.program(tmp_path, code)
        made.append(Inbox(tmp_path / "node", ct_lab.configuration(script)))
        made[-1].settle(*SLICES)
        return made[-1]

    yield make
    for one in made:
        one.close()


def begin(inbox: Inbox, rule: str = "lungs") -> str:
    return tried_programs.begin(inbox.database, inbox.settings, inbox.study_of(SLICES[0]).id, rule)


def ended(inbox: Inbox, token: str) -> View:
    """What is shown of the trial at its end."""
    wait_until(lambda: tried_programs.show(inbox.settings, token)["state"] != "running", what="its end")
    return tried_programs.show(inbox.settings, token)


def test_a_trial_says_what_would_be_sent_and_stores_nothing(node: Make) -> None:
    inbox = node(DERIVES.replace("CHANGE", ""))
    token = begin(inbox)
    shown = ended(inbox, token)
    assert [(row["kind"], row["verdict"]) for row in shown["rows"]] == [("image", "sent")] * 2, shown
    assert shown["state"] == "ended"
    assert tried_programs.object_file(inbox.settings, token, 1).read_bytes()[128:132] == b"DICM"
    assert inbox.rows(Result) == []
    assert inbox.rows(Delivery) == []
    assert len(inbox.rows(Job)) == 1, "that of the rule itself"
    assert (inbox.folder / "program-trials").stat().st_mode & 0o077 == 0


def test_a_program_that_fails_is_shown_with_what_it_printed(node: Make) -> None:
    inbox = node(FAILS)
    shown = ended(inbox, begin(inbox))
    assert shown["error"] == "the program ended with 1"
    assert shown["printed"].endswith("no weights for Test^one\n")


def test_a_second_trial_waits_for_the_first_which_ends_with_its_console(
    node: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr(tried_programs, "_accompany", lambda process, _: started.append(process))
    inbox = node(HANGS)
    token = begin(inbox)
    assert tried_programs.show(inbox.settings, token)["state"] == "running"
    with pytest.raises(NotAllowedNow, match="another trial"):
        begin(inbox)
    [process] = started
    process.stdin.close()  # as when the console ends
    assert ended(inbox, token)["state"] == "lost"
    process.wait()


def test_what_no_rule_takes_is_not_tried(node: Make) -> None:
    inbox = node(FAILS)
    with pytest.raises(NotFound, match="no rule of the name"):
        begin(inbox, "other")
    with pytest.raises(NotFound, match="no such study"):
        tried_programs.begin(inbox.database, inbox.settings, 99, "lungs")
    for one in SLICES:
        (inbox.folder / inbox.instance(one).path).unlink()
    inbox.put(Instance, purged=True)
    with pytest.raises(NotAllowedNow, match="takes nothing of this study"):
        begin(inbox)


@pytest.fixture
def old(node: Make) -> tuple[Inbox, str]:
    """A node with a trial that ended two hours ago."""
    inbox = node(FAILS)
    token = "0" * 32
    folder = inbox.folder / "program-trials" / token
    folder.mkdir(parents=True)
    asked = {"study": inbox.study_of(SLICES[0]).id, "rule": "lungs", "files": []}
    (folder / "asked.json").write_text(json.dumps(asked))
    (folder / "said.json").write_text("{}")
    (folder / "lock").touch()
    two_hours_ago = time.time() - 7200
    os.utime(folder, (two_hours_ago, two_hours_ago))
    return inbox, token


def test_a_trial_is_deleted_after_an_hour(old: tuple[Inbox, str]) -> None:
    inbox, token = old
    assert tried_programs.show(inbox.settings, token)["state"] == "ended"
    assert tried_programs.forget_old(inbox.database, inbox.settings) == 1
    with pytest.raises(NotFound):
        tried_programs.show(inbox.settings, token)


def test_a_trial_is_deleted_with_its_study(old: tuple[Inbox, str]) -> None:
    inbox, token = old
    tried_programs.forget_study(inbox.settings, 99)
    assert tried_programs.show(inbox.settings, token)
    tried_programs.forget_study(inbox.settings, inbox.study_of(SLICES[0]).id)
    with pytest.raises(NotFound):
        tried_programs.show(inbox.settings, token)


@pytest.mark.parametrize("token", ["", "..", "../../etc", "0" * 31, "g" * 32])
def test_what_is_no_token_leads_nowhere(old: tuple[Inbox, str], token: str) -> None:
    inbox, _ = old
    with pytest.raises(NotFound):
        tried_programs.object_file(inbox.settings, token, 1)


def test_an_object_that_is_no_row_is_not_found(old: tuple[Inbox, str]) -> None:
    inbox, token = old
    for number in (0, 1, -1):
        with pytest.raises(NotFound):
            tried_programs.object_file(inbox.settings, token, number)
