"""Names of patients are found by their words, and the database alone shows none."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import select

from dicom_node.sitekey import path_of
from dicom_node.store.patient_names import PatientNames, words
from dicom_node.store.tables import Study, StudyName
from tests.inbox_lab import Inbox
from tests.modality import ultrasound
from tests.unit.inbox.objects import changed


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("Nowak^Anna Maria", ["nowak", "anna", "maria"]),
        ("Müller-Lüdenscheidt^Jörg^^Dr.", ["muller", "ludenscheidt", "jorg", "dr"]),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", ["yamada", "tarou", "山田", "太郎", "やまた", "たろう"]),
        ("^^^", []),
        ("O'Brien^_x", ["o", "brien", "x"]),
    ],
)
def test_the_words_of_a_name(name: str, found: list[str]) -> None:
    assert [word.strip() for word in words(name)] == found


def found(inbox: Inbox, asked: str) -> set[str]:
    names = PatientNames(inbox.settings.node.data_dir)
    with inbox.database.read() as session:
        sets = [
            set(session.scalars(select(StudyName.study_id).where(StudyName.word == word)))
            for word in names.hashes(asked)
        ]
        numbers = set.intersection(*sets) if sets else set()
        return set(names.of(session, numbers).values())


def test_a_study_is_found_by_words_of_its_patients_name(inbox: Inbox) -> None:
    for name in ("Nowak^Anna", "Nowak^Jan", "Müller^Anna"):
        inbox.receive(changed(ultrasound(name), PatientName=name, SpecificCharacterSet="ISO_IR 192"))
    inbox.settle()
    assert found(inbox, "NOWAK") == {"Nowak^Anna", "Nowak^Jan"}
    assert found(inbox, "anna nowak") == {"Nowak^Anna"}
    assert found(inbox, "muller") == {"Müller^Anna"}
    assert found(inbox, "now") == set()


def test_the_database_alone_shows_no_name(inbox: Inbox) -> None:
    inbox.receive(changed(ultrasound("one"), PatientName="Nowak^Anna"))
    inbox.settle()
    with closing(sqlite3.connect(inbox.folder / "node.db")) as database:
        dump = "\n".join(database.iterdump()).casefold()
    assert "nowak" not in dump and b"nowak".hex() not in dump


def test_a_corrected_name_is_the_only_one(inbox: Inbox) -> None:
    image = ultrasound("one")
    inbox.receive(changed(image, PatientName="Novak^Anna"))
    inbox.settle()
    inbox.receive(changed(image, PatientName="Nowak^Anna"))
    inbox.settle()
    assert found(inbox, "nowak") in ({"Nowak^Anna"}, set())
    assert not (found(inbox, "nowak") and found(inbox, "novak"))


def test_without_the_key_no_name_is_stored_and_studies_come_all_the_same(tmp_path: Path) -> None:
    path = path_of(tmp_path / "var")
    path.parent.mkdir(mode=0o700, parents=True)
    path.write_text("no key", encoding="utf-8")
    inbox = Inbox(tmp_path / "var")
    inbox.receive(ultrasound("one"))
    inbox.settle()
    with inbox.database.read() as session:
        assert [row.sealed_name for row in session.scalars(select(Study))] == [b""]
    assert found(inbox, "one") == set()
    inbox.close()


@pytest.mark.parametrize("other", [True, False])
def test_another_key_or_none_opens_no_name(inbox: Inbox, *, other: bool) -> None:
    inbox.receive(changed(ultrasound("one"), PatientName="Nowak^Anna"))
    inbox.settle()
    path = path_of(inbox.settings.node.data_dir)
    path.unlink()
    names = PatientNames(inbox.settings.node.data_dir, make_key=other)
    with inbox.database.read() as session:
        assert set(names.of(session, [1]).values()) == {""}
    assert path.exists() == other  # who only reads makes no key
