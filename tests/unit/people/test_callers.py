"""Why a caller is refused: whose calls are its, what is outdated, and what it is advised."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import NodeSettings, Settings
from dicom_node.base.errors import NotFound
from dicom_node.base.events import ASSOCIATION_REJECTED, STORE_REFUSED, TLS_FAILED
from dicom_node.base.store.database import Database
from dicom_node.base.store.tables import Association
from dicom_node.base.store.transitions import record, utc_now
from dicom_node.people.callers import why

US1, HERE, ELSEWHERE = "192.0.2.21", "192.0.2.7", "192.0.2.8"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A node that US1, CT9 and a machine at another address tried to reach."""
    peer = PeerSettings(name="us1", ae_title="US1", host=US1)
    settings = Settings(node=NodeSettings(data_dir=tmp_path), peers=(peer,))
    database = Database(settings.database_url)
    database.upgrade()
    called = {"called": "AINODE", "meaning": "calling AE title not recognised"}
    with database.write() as session:
        record(session, ASSOCIATION_REJECTED, calling="us1", address=HERE, **called)
        record(session, ASSOCIATION_REJECTED, calling="CT9", address=HERE, **called)
        for title, address in (("US1", US1), ("CT9", HERE)):
            record(session, STORE_REFUSED, calling=title, address=address, status="A900", reason="no image")
        record(session, TLS_FAILED, address=ELSEWHERE, reason="no certificate")
        for number, (title, objects) in enumerate([("US1", 2), ("CT9", 0)]):
            session.add(
                Association(
                    id=str(number),
                    listener="",
                    calling_ae=title,
                    called_ae="AINODE",
                    address=US1 if objects else HERE,
                    opened_at=utc_now() + timedelta(minutes=1),
                    objects=objects,
                    refused=["CT Image Storage"],
                    refused_count=1,
                )
            )
    return settings


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (
            "us1",
            {"peer": "us1", "ae_titles": ["US1"], "addresses": [US1, HERE], "others": ["CT9"],
             "associations": ["US1"], "rejections": [("us1", True)], "refused_objects": [True],
             "failures": 0},
        ),
        (
            "CT9",
            {"peer": None, "ae_titles": ["CT9"], "addresses": [HERE], "others": ["us1"],
             "associations": ["CT9"], "rejections": [("CT9", False)], "refused_objects": [False],
             "failures": 0},
        ),
        (
            HERE,
            {"peer": None, "ae_titles": ["CT9", "us1"], "addresses": [HERE], "others": [],
             "associations": ["CT9"], "rejections": [("CT9", False), ("us1", False)],
             "refused_objects": [False],
             "failures": 0},
        ),
        (
            US1,
            {"peer": "us1", "ae_titles": ["US1"], "addresses": [US1], "others": [],
             "associations": ["US1"], "rejections": [], "refused_objects": [True], "failures": 0},
        ),
        (
            ELSEWHERE,
            {"peer": None, "ae_titles": [], "addresses": [ELSEWHERE], "others": [],
             "associations": [], "rejections": [], "refused_objects": [], "failures": 1},
        ),
    ],
    ids=["peer", "stranger", "address of two", "address of a peer", "address without a title"],
)  # fmt: skip
def test_the_calls_of_a_caller_are_found(settings: Settings, asked: str, expected: dict[str, Any]) -> None:
    found = why(settings, asked)
    shown = {key: found[key] for key in ("peer", "ae_titles", "addresses", "others")}
    assert (
        shown
        | {
            "associations": [row["calling_ae"] for row in found["associations"]],
            "rejections": sorted((row["calling_ae"], row["outdated"]) for row in found["rejections"]),
            "refused_objects": [row["outdated"] for row in found["refused_objects"]],
            "failures": len(found["failures"]),
        }
        == expected
    )
    assert not any("calling" in row for row in found["associations"])


def test_who_is_no_peer_and_did_not_call_is_not_found(settings: Settings) -> None:
    with pytest.raises(NotFound, match="did you mean CT9"):
        why(settings, "CT")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (ELSEWHERE, []),
        ("192.0.2.99", ["nothing of it reached this node. Let", "the node listens on 127.0.0.1 only"]),
        ("CT9", ["calls itself CT9: add", "objects were refused with A900: no image"]),
    ],
)
def test_the_advice_names_the_most_likely_cause_first(
    settings: Settings, asked: str, says: list[str]
) -> None:
    advice = why(settings, asked)["advice"]
    assert len(advice) == len(says)
    assert all(expected in line["says"] for expected, line in zip(says, advice, strict=True)), advice
