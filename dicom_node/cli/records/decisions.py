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


@app.command(epilog='Example: dicom-node decisions settle 3f2a... --because "study was sent anew"')
def settle(
    decision: Annotated[str, typer.Argument(metavar="DECISION", help="As `decisions list` shows it.")],
    config: Config,
    because: Annotated[str, typer.Option("--because", help="Why, in words; they are kept with it.")],
) -> None:
    """Answer for a decision that cannot be done again, or a changed line: it holds nothing back any more."""
    from dicom_node.services import decisions

    decisions.settle(load(config), decision, because=because)
    say("Settled: what it held back is sent.")
