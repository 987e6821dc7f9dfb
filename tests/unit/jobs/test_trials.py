"""Jobs of a picture that a person tries: its scores are kept, and its cleaning asks for no review."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_node.base.lifecycle import JobState
from dicom_node.base.store.tables import CleaningReview
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.jobs.scoring_lab import scoring, write_card
from tests.unit.jobs.worker_lab import configuration, work
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


@pytest.mark.parametrize(("association", "reviews"), [("trial-1", 0), ("upload-1", 1)])
def test_of_a_trial_nobody_is_asked_to_review_the_cleaning(
    tmp_path: Path, open_inbox: Callable[..., Inbox], association: str, reviews: int
) -> None:
    node = open_inbox(configuration("not-clean"))
    node.receive(changed(ultrasound("one"), PatientID=""), association=association)
    node.index()
    node.assemble()
    work(node)
    assert node.jobs()[0].state is JobState.FAILED
    assert len(node.rows(CleaningReview)) == reviews
