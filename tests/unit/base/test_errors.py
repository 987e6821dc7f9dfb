"""The tree at the head of ``errors`` is the tree of its classes."""

from collections.abc import Iterator

import pytest

from dicom_node.base import errors
from dicom_node.base.errors import (
    CannotRun,
    ExitCode,
    FaultyData,
    NodeError,
    RequestRefused,
    StorageError,
    TryEnded,
)


def lines_of(kind: type[NodeError], depth: int = 0) -> Iterator[str]:
    """``kind`` and all kinds of it in this module, each further to the right than its base."""
    yield f"{'  ' * depth}* {kind.__name__}"
    for narrower in kind.__subclasses__():
        if narrower.__module__ == errors.__name__:
            yield from lines_of(narrower, depth + 1)


def test_the_tree_at_the_head_of_the_module_is_that_of_the_classes() -> None:
    shown = [line for line in (errors.__doc__ or "").splitlines() if line.lstrip().startswith("* ")]
    assert [line.partition(":")[0] for line in shown] == list(lines_of(NodeError))


@pytest.mark.parametrize(
    ("branch", "status"),
    [
        (CannotRun, ExitCode.CONFIG),
        (RequestRefused, ExitCode.FAILED),
        (StorageError, ExitCode.SOFTWARE),
        (FaultyData, ExitCode.SOFTWARE),
        (TryEnded, ExitCode.SOFTWARE),
    ],
)
def test_a_branch_has_an_exit_status_for_errors_without_one_of_their_own(
    branch: type[NodeError], status: ExitCode
) -> None:
    assert branch.exit_code is status
