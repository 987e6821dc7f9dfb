"""``dicom-node decisions``: what persons decided and a restored database does not know."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from dicom_node.cli.common.lists import Rows, list_verb
from dicom_node.cli.common.options import Config, group, load
from dicom_node.cli.common.output import say

app = group("Decisions of persons that were lost with the database.")


@list_verb(app, "decisions", none="No decision waits.")
def list_decisions(session: Any) -> Rows:
    """List decisions of persons that the database lost and that could not be applied again yet.

    No result of a study is sent while one of its decisions marked "holds" waits.
    """
    from dicom_node.services import decisions

    return decisions.waiting(session)


@app.command(epilog='Example: dicom-node decisions settle 3f2a... --because "study was sent again"')
def settle(
    decision: Annotated[str, typer.Argument(metavar="DECISION", help="As `decisions list` shows it.")],
    config: Config,
    because: Annotated[str, typer.Option("--because", help="The reason, which is stored with the decision.")],
) -> None:
    """Answer for a decision that cannot be done again, or a changed line: it holds nothing back any more."""
    from dicom_node.services import decisions

    decisions.settle(load(config), decision, because=because)
    say("Settled: results that it held back are sent.")
