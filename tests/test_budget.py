"""What the budget finds: too much of a package, and numbers that grew."""

from tests.budget import faults, statements


def test_docstrings_and_comments_cost_nothing() -> None:
    assert (
        statements('"""A module."""\nimport os  # why\n\n\ndef f():\n    """Shape."""\n    return os\n') == 3
    )


def test_only_what_is_above_its_number_is_a_fault() -> None:
    assert faults({"store": 10, "words": 5}, {"store": 10, "words": 6}, {}) == []
    assert faults({"store": 11, "attic": 1}, {"store": 10}, {}) == ["attic: 1 of 0", "store: 11 of 10"]


def test_a_number_may_fall_and_go_to_a_new_package_but_not_grow() -> None:
    landed = {"store": 10, "words": 5}
    assert faults({}, {"store": 7, "attic": 3, "words": 5}, landed) == []
    assert faults({}, {"store": 11, "words": 6}, landed) == [
        "budget.toml: store was 10 and is 11",
        "budget.toml: words was 5 and is 6",
        "budget.toml: all packages were 10 and are 11",
    ]
    assert faults({}, {"store": 10, "attic": 3}, landed) == ["budget.toml: all packages were 10 and are 13"]


def test_a_connector_that_leaves_the_core_takes_its_number_along() -> None:
    landed = {"dicom_node": 10, "dicom_connectors": 5}
    assert faults({}, {"dicom_node": 8, "dicom_connectors": 7}, landed) == []
    assert "budget.toml: dicom_connectors was 5 and is 7" in faults(
        {}, {"dicom_node": 9, "dicom_connectors": 7}, landed
    )
