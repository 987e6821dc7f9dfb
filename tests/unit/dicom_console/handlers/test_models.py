"""A model of the site's own is put into use and back."""

from pathlib import Path
from unittest.mock import Mock

import pytest

from ai_pipeline.models import trial
from dicom_node.people import audit, site_models
from tests.console_lab import OWN_MODEL, Browser, ConsoleLab, own_model


def model_in(console: ConsoleLab, slot: str) -> str:
    """The model that runs in a slot, "" for none."""
    return site_models.models_in_use(console.settings)[slot]


def test_a_model_of_the_sites_own_is_put_into_use_and_back(
    console: ConsoleLab, admin: Browser, tmp_path: Path
) -> None:
    place = f"/models/{OWN_MODEL}"
    assert admin.post(f"{place}/activate", pipeline="chest_xray") == 409
    assert "workers.models_dir" in admin.text
    shipped = model_in(console, "chest_xray")
    own_model(tmp_path / "models")
    console.change("workers", models_dir=tmp_path / "models")
    assert 'name="pipeline" value="chest_xray"' in admin.page(place)
    assert "Let chest_xray use it" in admin.text
    assert admin.post(f"{place}/activate", pipeline="nothing") == 404
    assert admin.post(f"{place}/activate", pipeline="chest_xray") == 303, admin.text
    assert model_in(console, "chest_xray") == "chest-efficientnet-lite0@9.9"
    admin.follow()
    assert "Roll back" in admin.text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "note", Mock(side_effect=RuntimeError("the audit takes nothing")))
        patch.setattr(trial, "try_out", lambda *_: None)
        for address in (f"{place}/activate", "/models/chest_xray/rollback"):
            assert admin.post(address, pipeline="chest_xray") == 500
    assert model_in(console, "chest_xray") == "chest-efficientnet-lite0@9.9", "changed without a record"
    assert [admin.post("/models/chest_xray/rollback") for _ in range(2)] == [303, 409]
    assert model_in(console, "chest_xray") == shipped
    assert len(console.audited("model_activated")) == len(console.audited("model_rollback")) == 1
