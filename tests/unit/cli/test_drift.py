"""``models drift``: what an admin sees of the counts."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ai_pipeline.models.registry import cards
from dicom_node.model.kinds import Counted
from dicom_node.monitoring import counts
from dicom_node.monitoring.counts import CountedModel
from dicom_node.store.database import Database
from tests.unit.cli.conftest import Run
from tests.unit.monitoring.scoring_lab import write_card

LISTS = Path(__file__).resolve().parents[3] / "docs" / "reference" / "lists.md"
TODAY = datetime.now(UTC).date()
EVEN, SHIFTED, FEW = [30] * 10, [0] * 8 + [100, 200], [1] * 10


@pytest.fixture
def counted(filled: Path) -> Path:
    """A node whose peer us1 sends images as ever, and which gets others from somewhere."""
    folder = filled.parent / "models"
    write_card(folder)
    filled.write_text(
        filled.read_text(encoding="utf-8").replace(
            "[listener]", f'[workers]\nmodels_dir = "{folder}"\n[listener]'
        ),
        encoding="utf-8",
    )
    [card] = [card for card in cards(folder) if card.id == "scoring"]
    model = CountedModel(card.id, card.version, card.sha256)
    database = Database(f"sqlite:///{filled.parent / 'var' / 'node.db'}")
    with database.write() as session:
        for sender, bins, days in (("US1", EVEN, 0), ("US1", SHIFTED, 50), ("", SHIFTED, 1), ("OLD", FEW, 2)):
            day = TODAY - timedelta(days=days)
            outcomes = {Counted.ANALYSED: sum(bins), Counted.REFUSED_PIXELS: 12, Counted.REFUSED_HEADER: 3}
            counts.add_images(session, model, day, {(sender, o): n for o, n in outcomes.items()})
            counts.add_scores(session, model, day, {(sender, "Shown", n): i for n, i in enumerate(bins)})
    database.dispose()
    return filled


def test_each_model_and_sender_is_one_row(run: Run, counted: Path) -> None:
    other, old, us1 = run("models", "drift", "--config", counted, "--json").json
    assert [row["calling_ae"] for row in (other, old, us1)] == ["other", "OLD", "US1"]
    assert [row["verdict"] for row in (other, old, us1)] == ["drifted", "too few", "stable"]
    assert (us1["analysed"], us1["refused_pixels"], us1["refused_header"], us1["reoriented"]) == (
        300,
        12,
        3,
        0,
    )
    assert us1["refusal_rate"] == pytest.approx([0.0385, 0.0221, 0.066], abs=1e-4)
    assert us1["reference"] == {"set": "validation", "images": 1000, "refused": 0.05}
    assert us1["since"] == (TODAY - timedelta(days=30)).isoformat()
    shown, hidden = us1["scores"]
    assert (shown["label"], shown["psi"], shown["verdict"], shown["bins"]) == ("Shown", 0.0, "stable", EVEN)
    assert (hidden["images"], hidden["psi"], hidden["bins"]) == (0, None, None)
    assert old["scores"][0]["bins"] is None, "few images would nearly tell single scores"


def test_every_key_is_in_the_admin_guide(run: Run, counted: Path) -> None:
    listed = LISTS.read_text(encoding="utf-8")
    rows = run("models", "drift", "--config", counted, "--json").json
    keys = {*rows[0], *rows[0]["scores"][0], *rows[0]["reference"]}
    assert [key for key in sorted(keys) if f"`{key}`" not in listed] == []


def test_a_peer_is_chosen_by_its_name_or_title(run: Run, counted: Path) -> None:
    def titles(peer: str) -> list[str]:
        rows = run("models", "drift", "--config", counted, "--json", "--peer", peer).json
        return [row["calling_ae"] for row in rows]

    assert titles("us1") == titles("US1") == ["US1"]
    assert (titles("other"), titles("OLD"), titles("pacs")) == (["other"], ["OLD"], [])
    unknown = run("models", "drift", "--config", counted, "--peer", "us7")
    assert (unknown.status, unknown.out) == (66, "")


def test_since_counts_whole_days(run: Run, counted: Path) -> None:
    rows = run("models", "drift", "--config", counted, "--json", "--peer", "us1", "--since", "60d").json
    assert rows[0]["analysed"] == 600
    assert rows[0]["verdict"] == "drifted"


def test_the_tables_can_be_read_at_100_columns(run: Run, counted: Path) -> None:
    printed = run("models", "drift", "--config", counted)
    assert max(map(len, printed.out.splitlines())) <= 100
    for expected in (
        "scoring 1 (card ",
        "12 = 3.8 % (2.2 % to 6.6 %)",
        "reference: validation, 1000 images, 5.0 %",
        "Scores of US1",
    ):
        assert expected in printed.out


def test_a_card_without_reference_says_so(run: Run, counted: Path) -> None:
    folder = counted.parent / "models"
    before = run("models", "drift", "--config", counted, "--json", "--peer", "us1").json
    write_card(folder, reference="")
    [card] = [card for card in cards(folder) if card.id == "scoring"]
    model = CountedModel(card.id, card.version, card.sha256)
    database = Database(f"sqlite:///{counted.parent / 'var' / 'node.db'}")
    with database.write() as session:
        counts.add_images(session, model, TODAY, {("US1", Counted.ANALYSED): 70})
    database.dispose()
    rows = run("models", "drift", "--config", counted, "--json", "--peer", "us1").json
    [plain] = [row for row in rows if row["card_sha256"] == card.sha256]
    assert (plain["verdict"], plain["note"]) == (
        "no reference",
        "no reference in the card: PSI cannot be given",
    )
    [replaced] = [row for row in rows if row["card_sha256"] != card.sha256]
    assert replaced["note"] == "this card is not installed any more"
    assert replaced["scores"][0]["psi"] == before[0]["scores"][0]["psi"]
    assert "no reference in the card" in run("models", "drift", "--config", counted).out


def test_a_faulty_reference_is_told_by_verify(run: Run, counted: Path) -> None:
    write_card(counted.parent / "models", reference="\n[reference]\nimages = 1\n")
    printed = run("models", "verify", "--config", counted, "--json")
    [row] = [row for row in printed.json if row["id"] == "scoring"]
    assert (printed.status, row["ok"]) == (65, False)
    assert "reference.deciles is missing" in row["text"]


def test_nothing_counted_is_an_empty_list(run: Run, filled: Path) -> None:
    assert run("models", "drift", "--config", filled, "--json").json == []
    printed = run("models", "drift", "--config", filled)
    assert (printed.out, printed.err) == ("", "No images were counted.\n")
