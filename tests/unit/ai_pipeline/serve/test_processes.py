"""Processes that clean: one that hangs, dies or cannot start costs its task a reason, and is replaced."""

import json
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from ai_pipeline.serve.processes import CannotStart, CleaningProcesses
from ai_pipeline.serve.settings import ServeSettings
from ai_pipeline.serve.tasks import Answer, Outcome, Task
from tests.waiting import wait_until

ANSWERS = """
import json, os, socket, time
control = socket.socket(fileno=0)
settings = control.recv(2**17)
control.send(b'{"cannot_start": "", "lacks": ""}')
while True:
    message, files, _, _ = socket.recv_fds(control, 2**17, 2)
    if not files:
        break
    said = os.pread(files[0], 100, 0)
    if said == b"hang":
        time.sleep(600)
    if said == b"die":
        os._exit(1)
    if said == b"talk":
        control.send(b'{"outcome": "cleaned", "reason": "' + b"x" * 2**17 + b'"}')
        continue
    secrets = [text for text in (settings.decode(), *os.environ.values()) if "secret token" in text]
    control.send(json.dumps({"outcome": "cleaned", "reason": "", "media_type": "application/dicom",
                             "report": {"secrets": len(secrets), "pid": os.getpid()}}).encode())
"""
FAILS = """
import socket
control = socket.socket(fileno=0)
control.recv(2**17)
control.send(b'{"cannot_start": "weights are missing"}')
"""


@contextmanager
def processes(program: str = ANSWERS, seconds: float = 60) -> Iterator[CleaningProcesses]:
    settings = ServeSettings(seconds=seconds, token=SecretStr("a secret token of this test"))
    started = CleaningProcesses(settings, ("-c", program))
    try:
        yield started
    finally:
        started.close()


def ask(
    cleaning: CleaningProcesses, content: bytes = b"x", waits: Callable[[], bool] = lambda: True
) -> Answer:
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as target:
        source.write(content)
        source.flush()
        return cleaning.answer(Task(), source.fileno(), target.fileno(), waits)


def test_it_answers_and_knows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AI_PIPELINE_SERVE_TOKEN", "a secret token of this test")
    with processes() as cleaning:
        answer = ask(cleaning)
    assert answer.outcome is Outcome.CLEANED
    assert answer.report["secrets"] == 0


@pytest.mark.parametrize(
    ("content", "outcome"),
    [(b"hang", Outcome.LATE), (b"die", Outcome.FAILED), (b"talk", Outcome.FAILED)],
    ids=["hangs", "dies", "says more than a message holds"],
)
def test_a_process_that_is_lost_costs_its_task_and_is_replaced(content: bytes, outcome: Outcome) -> None:
    with processes(seconds=5) as cleaning:
        before = ask(cleaning).report["pid"]
        lost = ask(cleaning, content)
        after = ask(cleaning)
    assert (lost.outcome, lost.report) == (outcome, {})
    assert after.report["pid"] != before


def test_a_process_that_is_killed_in_its_task_leaves_a_reason() -> None:
    answers: list[Answer] = []
    with processes() as cleaning:
        cleaning.start()
        pid = cleaning.all[0].pid
        thread = threading.Thread(target=lambda: answers.append(ask(cleaning, b"hang")))
        thread.start()
        assert pid is not None
        wait_until(cleaning._free.empty, 60, "the task in the process")
        time.sleep(0.5)  # one that was killed before it got the task would be started anew
        os.kill(pid, signal.SIGKILL)
        thread.join(60)
        assert ask(cleaning).outcome is Outcome.CLEANED
    assert answers[0].outcome is Outcome.FAILED
    assert "killed" in answers[0].reason


def test_who_finds_no_free_process_in_time_is_told_so() -> None:
    with processes(seconds=1) as cleaning:
        cleaning.start()
        hanging = cleaning._free.get()
        answer = ask(cleaning)
        cleaning._free.put(hanging)
    assert answer.outcome is Outcome.LATE
    assert "no process was free" in answer.reason


def test_who_goes_while_no_process_is_free_waits_no_longer() -> None:
    with processes(seconds=60) as cleaning:
        cleaning.start()
        hanging = cleaning._free.get()
        asked = iter([True, True])
        begin = time.monotonic()
        answer = ask(cleaning, waits=lambda: next(asked, False))
        cleaning._free.put(hanging)
    assert answer.outcome is Outcome.LATE
    assert time.monotonic() - begin < 30


def test_a_process_that_cannot_start_says_why() -> None:
    with processes(FAILS) as cleaning, pytest.raises(CannotStart, match="weights are missing"):
        cleaning.start()


def test_a_task_and_an_answer_are_the_same_after_the_way() -> None:
    task = Task("masks", form={"sensitive_data_list": '{"PatientName": "Müller"}', "odd": "\ud800"[:0]})
    answer = Answer(Outcome.WITHHELD, "why", report={"places": [[1, 2, 3, 4]]})
    assert Task.of(task.packed()) == task
    assert Answer.of(answer.packed()) == answer
    assert json.loads(task.packed())["policy"] == "clinical"


def test_a_process_ends_with_its_server() -> None:
    with processes() as cleaning:
        cleaning.start()
        pid = cleaning.all[0].pid
    assert pid is not None
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="it has ended")
