"""Programs of the configuration tried at the console: a rule's program, run once on a study of the node.

Nothing of it is stored as a result or sent. Each trial is a process with a folder of its own below the data
folder; its state is in files there, and the folder is deleted after an hour.
"""

import fcntl
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from sqlalchemy.orm import Session

from ai_pipeline.errors import PipelineError
from dicom_node.base.config.rule import RUN_HERE
from dicom_node.base.config.settings import Settings
from dicom_node.base.durable import write_new
from dicom_node.base.errors import NodeError, NotAllowedNow, NotFound
from dicom_node.base.files import Files
from dicom_node.base.lifecycle import ObjectRole
from dicom_node.base.processes import limit_memory, lower_priority, settings_line, watch_parent
from dicom_node.base.store import intake
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Study
from dicom_node.base.store.views import View
from dicom_node.jobs.queue import decide_study

KEPT_SECONDS: Final = 3600.0
"""After which a trial is deleted: it names the patient."""
RUNNING, ENDED, LOST = "running", "ended", "lost"
_TOKEN: Final = re.compile(r"[0-9a-f]{32}")
_LOCK, _ASKED, _SAID = "lock", "asked.json", "said.json"
_OUT: Final = "out"


def rules_with_programs(settings: Settings) -> list[str]:
    """Names of the rules that run a program."""
    return [rule.name for rule in settings.rules if rule.pipeline in RUN_HERE]


def begin(database: Database, settings: Settings, study_id: int, rule: str) -> str:
    """Begin to run the program of a rule on the objects of a study that the rule takes; returns the token of
    the trial.

    Raises NotFound (no such rule or study), NotAllowedNow (the rule takes nothing of the study; another trial
    runs), StoreAway.
    """
    with database.read() as session:
        asked = _asked(session, settings, study_id, rule)
    forget_old(database, settings)
    if any(_state(folder) == RUNNING for folder in _folders(settings)):
        raise NotAllowedNow("another trial of a program runs: wait for its end")
    token = secrets.token_hex(16)
    folder = _place(settings) / token
    folder.parent.mkdir(mode=0o700, exist_ok=True)
    folder.mkdir(mode=0o700)
    write_new(folder / _ASKED, json.dumps(asked), 0o600)
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the process inherits it
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dicom_node.people.tried_programs", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # what the program printed is in the folder
            pass_fds=[lock.fileno()],
        )
    threading.Thread(target=_accompany, args=(process, settings), daemon=True).start()
    return token


def show(settings: Settings, token: str) -> View:
    """A trial: its ``token``, ``study`` (number), ``rule`` and ``state``; at its end the ``rows`` and
    ``remarks`` of ``programs try``, or an ``error`` with what the program ``printed``. Raises NotFound.
    """
    folder = _found(settings, token)
    asked = json.loads((folder / _ASKED).read_text("utf-8"))
    state = _state(folder)
    said: dict[str, Any] = {"rows": [], "remarks": [], "error": "", "printed": ""}
    if state == ENDED:
        said |= json.loads((folder / _SAID).read_text("utf-8"))
    return {"token": token, "state": state, "study": asked["study"], "rule": asked["rule"], **said}


def object_file(settings: Settings, token: str, number: int) -> Path:
    """The file of an object of a trial, by its place among the rows, from 1. Raises NotFound."""
    rows = show(settings, token)["rows"]
    name = rows[number - 1]["file"] if 0 < number <= len(rows) else ""
    path = _place(settings) / token / _OUT / name
    if not name or not path.is_file():
        raise NotFound("this trial has no such object")
    return path


def forget_old(_database: Database, settings: Settings) -> int:
    """Delete the trials that are older than an hour and do not run; returns their number."""
    forgotten = 0
    for folder in _folders(settings):
        with suppress(OSError):
            if time.time() - folder.stat().st_mtime > KEPT_SECONDS and _state(folder) != RUNNING:
                shutil.rmtree(folder)
                forgotten += 1
    return forgotten


def forget_study(settings: Settings, study_id: int) -> None:
    """Delete the trials on a study that is erased."""
    for folder in _folders(settings):
        with suppress(OSError, ValueError, KeyError):
            if json.loads((folder / _ASKED).read_text("utf-8"))["study"] == study_id:
                shutil.rmtree(folder)


def _asked(session: Session, settings: Settings, study_id: int, name: str) -> Mapping[str, Any]:
    """What a trial needs: the study, the rule, and the files that the rule takes. Raises as ``begin``."""
    rule = settings.rule(name)
    if rule is None or rule.pipeline not in RUN_HERE:
        raise NotFound(f"no rule of the name {name} runs a program")
    study = session.get(Study, study_id)
    if study is None:
        raise NotFound("there is no such study")
    sources = intake.instances_of(session, study_id, [ObjectRole.SOURCE])
    decided = [one for one in decide_study(session, study, sources, settings) if one.rule.name == name]
    here = {row.sop_instance_uid: row for row in sources if not row.purged}
    uids = [uid for one in decided for uid in one.source_uids if uid in here]
    if not uids:
        raise NotAllowedNow(f"the rule {name} takes nothing of this study, or its images were deleted")
    files = Files(settings)
    paths = [str(files.here(session, here[uid].path).absolute()) for uid in uids]
    return {"study": study_id, "rule": name, "files": paths}


def _place(settings: Settings) -> Path:
    """The folder of all trials."""
    return settings.node.data_dir.absolute() / "program-trials"


def _folders(settings: Settings) -> Iterator[Path]:
    """The folders of the trials that are there."""
    with suppress(FileNotFoundError):
        yield from [one for one in _place(settings).iterdir() if _TOKEN.fullmatch(one.name)]


def _found(settings: Settings, token: str) -> Path:
    """The folder of a trial. Raises NotFound."""
    folder = _place(settings) / token
    if not _TOKEN.fullmatch(token) or not (folder / _ASKED).is_file():
        raise NotFound("there is no such trial, or no longer: each is deleted after an hour")
    return folder


def _state(folder: Path) -> str:
    """Whether a trial runs (its process holds the lock), has ended, or was lost with its process."""
    with suppress(OSError), (folder / _LOCK).open("r") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return RUNNING
    return ENDED if (folder / _SAID).is_file() else LOST


def _accompany(process: subprocess.Popen[bytes], settings: Settings) -> None:
    """Give the process its settings, and wait for its end: it ends when this process does."""
    assert process.stdin is not None
    with process.stdin as channel, suppress(BrokenPipeError):
        channel.write(settings.for_children().encode() + b"\n")
        channel.flush()
        process.wait()


def _tried(folder: Path, settings: Settings) -> dict[str, Any]:
    """Run the trial whose folder this is; returns what ``show`` adds at its end."""
    from dicom_node.people.program_trial import TrialFailed, try_pipeline

    asked = json.loads((folder / _ASKED).read_text("utf-8"))
    rule = settings.rule(asked["rule"])
    if rule is None:
        return {"error": "the rule is not configured any more"}
    files = [Path(file) for file in asked["files"]]
    try:
        tried = try_pipeline(rule.pipeline, rule.options, files, lambda *_: None, folder / _OUT)
    except TrialFailed as error:
        return {"error": str(error), "printed": error.printed}
    except (NodeError, PipelineError) as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001  (a defect: the page says so)
        return {"error": f"a defect of the node ({type(error).__name__}): please report it"}
    return {"rows": tried.rows, "remarks": tried.remarks()}


def main() -> None:
    """Run one trial, whose folder is the first argument; the settings come by standard input."""
    folder = Path(sys.argv[1])
    settings = Settings.model_validate_json(settings_line())
    watch_parent(lambda: os._exit(1))
    lower_priority()
    limit_memory(settings.workers.memory_mib)
    write_new(folder / _SAID, json.dumps(_tried(folder, settings)), 0o600)


if __name__ == "__main__":
    main()
