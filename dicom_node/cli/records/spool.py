"""``dicom-node spool``: received objects on disk, and whether the database knows them."""

from __future__ import annotations

from dicom_node.cli.common.options import Config, group, load
from dicom_node.cli.common.output import say
from dicom_node.errors import ExitCode

app = group("The spool: received objects on disk.")

_EVERY = 1000  # objects between two lines of progress


@app.command(epilog="Example: dicom-node spool compare --config node.toml")
def compare(config: Config) -> int:
    """Compare spool and database, as the node does at its start and daily; exit status 1: they differ.

    What persons had decided and the database has lost is done again, or named where it cannot be.
    """
    from dicom_node.services import decisions, spool

    loaded = load(config)
    lost = decisions.describe_lost(loaded)
    for line in lost:
        say(line)
    difference = spool.compare(loaded)
    say(difference or "Spool and database agree.")
    return ExitCode.FAILED if difference or lost else ExitCode.OK


@app.command(epilog="Example: dicom-node spool reindex --config node.toml")
def reindex(config: Config) -> None:
    """Put objects that the database does not know back to be taken in, as after a lost database.

    The node may run; one that is stopped takes them in when it starts. Results that were sent are asked for
    at their destinations and not sent twice.
    """
    from dicom_node.services import spool

    done = spool.reindex(load(config), _progress)
    say("The node takes them in like any other." if done else "Nothing to put back.")


def _progress(done: int, of: int) -> None:
    if done % _EVERY == 0 or done == of:
        say(f"{done} of {of} object{'s' if of != 1 else ''} put back")
