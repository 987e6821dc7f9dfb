"""What a job keeps of the scores of a picture that a person tries, for the page that shows the highest."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_node.base.lifecycle import JobState
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.jobs.scoring_lab import scoring, write_card
from tests.unit.jobs.worker_lab import work
from tests.unit.receive.objects import changed


@pytest.mark.parametrize(
    ("association", "body_part", "kept"),
    [
        ("trial-1", "OVARY", {"scoring@1": {"Shown": 0.25, "Hidden": 0.75}}),
        ("trial-1", "HAZE", {"scoring@1": {"Shown": 0.25, "Hidden": 0.75}, "unsure": {}}),
        ("upload-1", "OVARY", None),
    ],
    ids=["of a trial", "with the mark that the model is unsure of it", "of no trial: nothing is kept"],
)
def test_scores_of_trials_alone_are_kept(
    tmp_path: Path, open_inbox: Callable[..., Inbox], association: str, body_part: str, kept: object
) -> None:
    write_card(tmp_path / "models")
    node = open_inbox(scoring(tmp_path / "models"))
    picture = changed(ultrasound("one"), PatientID="", PatientAge="025Y", BodyPartExamined=body_part)
    node.receive(picture, association=association)
    node.index()
    node.assemble()
    work(node)
    [job] = node.jobs()
    assert job.state is JobState.SUCCEEDED
    assert job.scores == kept
