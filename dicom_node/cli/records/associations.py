"""``dicom-node associations``: who connected, when, and how many objects came."""

from __future__ import annotations

from typing import Any

from dicom_node.cli.common.lists import Rows, list_verb
from dicom_node.cli.common.options import Limit, Since, group, limit_or_none, moment

app = group("Associations: who connected, and how many objects came.")


@list_verb(app, "associations", "--since 1h", none="No associations.", why="did the ultrasound get through?")
def list_associations(session: Any, *, since: Since = "", limit: Limit = 100) -> Rows:
    """List associations, the newest first; an open one has no closing time."""
    from dicom_node.store import views

    return views.list_associations(session, since=moment(since), limit=limit_or_none(limit))
