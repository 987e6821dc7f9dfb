"""How a person reads figures."""

from __future__ import annotations

from ai_training.text import figures_text


def test_rows_that_share_a_value_become_a_table_and_the_rest_names_and_values() -> None:
    figures = {
        "model": "made",
        "mean_auc": [0.71234, 0.65, None],
        "nothing": [None, None, None],
        "labels": [{"label": "Mass", "auc": 0.5, "deep": {"a": 1}}, {"label": "Nodule", "auc": 1.0}],
        "gate": {"threshold": 0.9, "kinds": {"chest_x": {"passed": True}, "other": {"passed": False}}},
        "left_out": {},
    }

    assert figures_text(figures).splitlines() == [
        "model     made",
        "mean auc  0.7123 [0.65, –]",
        "nothing   –",
        "left out  none",
        "",
        "labels:",
        "        auc",
        "Mass    0.5",
        "Nodule  1",
        "",
        "labels, Mass, deep:",
        "a  1",
        "",
        "gate:",
        "threshold  0.9",
        "",
        "gate, kinds:",
        "         passed",
        "chest_x  yes",
        "other    no",
        "",
        "Not for diagnostic use.",
    ]
