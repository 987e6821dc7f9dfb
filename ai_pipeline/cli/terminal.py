"""What the verbs share: exit codes, a progress bar, a table."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

EXIT_DATA, EXIT_CONFIG = 65, 78  # EX_DATAERR, EX_CONFIG of sysexits.h


@contextmanager
def progress_bar(total: float | None = None) -> Iterator[Callable[..., None]]:
    """Yield a function that moves a progress bar on a terminal (``completed``, ``total``, ``description``);
    without a terminal it does nothing.
    """
    if not sys.stderr.isatty():
        yield lambda **_: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        yield partial(bar.update, bar.add_task("", total=total))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """Print a table. Long words are folded, not cut, so that a person can copy a whole id."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def print_text(text: str) -> None:
    """Print a text without markup and colours, and without the control characters that a file name may
    contain.
    """
    from rich.console import Console

    Console().print(text, markup=False, highlight=False)
