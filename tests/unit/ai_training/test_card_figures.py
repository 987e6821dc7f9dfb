"""The evaluation of the shipped classifier on the public images prints the figures of its card."""

from __future__ import annotations

from pathlib import Path

import pytest

from ai_pipeline.models.registry import find
from ai_training.evaluation import evaluate
from ai_training.evaluation.evaluate import evaluate_chest

MODEL = "chest-efficientnet-lite0"


@pytest.mark.data
def test_the_evaluation_prints_the_figures_of_the_card(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate, "gate_figures", lambda *_, **__: {})  # is not compared
    monkeypatch.setattr(evaluate.calibration, "calibration", lambda *_, **__: {})
    result = evaluate_chest(data, "test", cache=tmp_path)
    main, card = result["main"], find(MODEL).details["metrics"]
    assert main["mean_auc"] == pytest.approx(card["mean_auc"], abs=0.002)
    for label, auc in {row["label"]: row["auc"] for row in main["labels"] if row["positives"] >= 15}.items():
        assert auc == pytest.approx(card["labels"][label]["auc"], abs=0.01)
    assert (main["images"], result["with_children"]["images"]) == (151, 160)
    assert main["difference_to_hog"][1] > 0 and result["boxes"]["pointing"]["difference"][0] > 0
    assert result["permuted_labels"][0] == pytest.approx(0.5, abs=0.01)
    assert result["probes"]["source"]["pooled_auc"]["Pneumonia"] > 0.9
    more = next(row for row in result["sources"] if row["source"] == "cxr_nih_more/images")
    assert "Pneumonia" in more["left_out"] and "Pneumonia" not in more["labels"]
    assert result["teacher"]["sources"]["cxr_nih/images"]["images"] == 85  # of the 91, six are children
