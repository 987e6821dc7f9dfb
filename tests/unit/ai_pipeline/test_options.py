"""Options of pipelines, as rules and jobs give them."""

from __future__ import annotations

from ai_pipeline.burnin.card import UltrasoundOptions


def test_a_job_with_a_former_option_does_not_fail_for_it() -> None:
    """The job was made by an earlier version; `check` refuses the option in a rule."""
    assert UltrasoundOptions.of({"despeckle": True}) == UltrasoundOptions()
