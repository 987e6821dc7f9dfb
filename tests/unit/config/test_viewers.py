"""What a peer gets by the viewer behind it, and what the test of a peer says of the rest."""

from __future__ import annotations

from typing import Any

import pytest

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.model.kinds import ResultKind
from dicom_node.model.viewers import VIEWERS
from dicom_node.services.peers import try_peers

NOTES = {ResultKind.REJECTION, ResultKind.ASSESSMENT}  # which have keys of their own
PACS = {"name": "pacs", "ae_title": "PACS", "host": "127.0.0.1", "port": 9, "may": ["receive"]}


@pytest.mark.parametrize("viewer", list(VIEWERS))
def test_of_each_kind_it_is_known_what_a_viewer_makes_of_it(viewer: str) -> None:
    assert VIEWERS[viewer].keys() == set(ResultKind) - NOTES


@pytest.mark.parametrize(
    ("given", "results"),
    [
        ({}, ["sr", "gsps", "sc"]),
        ({"viewer": "ohif"}, ["sr", "sc"]),
        ({"viewer": "ohif", "results": ["gsps", "seg"]}, ["gsps", "seg"]),
    ],
)
def test_the_viewer_chooses_where_the_site_does_not(given: dict[str, Any], results: list[str]) -> None:
    assert [str(kind) for kind in PeerSettings.model_validate(PACS | given).results] == results


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, {}),
        ({"viewer": "ohif"}, {"ohif draws all of them": True}),
        (
            {"viewer": "ohif", "results": ["sr", "gsps", "seg"]},
            {
                "gsps in ohif: listed, and not drawn": True,
                "seg in ohif: opening it breaks the viewer: leave it out of results": False,
            },
        ),
    ],
)
def test_a_test_of_the_peer_says_what_its_viewer_does_not_draw(
    given: dict[str, Any], said: dict[str, bool]
) -> None:
    settings = Settings.model_validate({"peers": [PACS | given]})
    rows = [row for row in try_peers(settings, ["pacs"]) if row.check == "viewer"]
    assert {row.text: row.ok for row in rows} == said
