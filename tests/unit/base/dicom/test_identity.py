"""Who is surely the same person, and who shares what others have as well."""

import pytest

from dicom_node.base.dicom.identity import Patient, issuer_of, issuers_differ, with_doubts


@pytest.mark.parametrize(
    "who",
    [
        ("4711", "Miller^Jane", "", "F"), ("4711", "", "19650312", ""), ("P1", "Test^CR", "19700101", "F"),
        ("4711", "山田^太郎", "", "M"), ("A-0042", "UNKNOWN", "12.3.1965", "M"), ("42", "", "19650312", ""),
        ("UNKNOWN", "Miller^Jane", "19650312", "F"), ("1", "Miller^Jane", "19650312", "F"),
    ],
    ids=str,
)  # fmt: skip
def test_a_person_is_the_same_by_id_and_birth_date_or_name_and_sex_that_nobody_shares(
    who: tuple[str, str, str, str],
) -> None:
    patient_id, *others = who
    person, elsewhere = (Patient.from_values(patient_id, issuer, *others) for issuer in ("A", "B"))
    assert person.is_surely(Patient.parse(str(person)))
    assert not person.is_surely(elsewhere)


@pytest.mark.parametrize(
    "who",
    [
        ("4711", "", "19000101", "M"), ("4711", "", "18000101", "F"), ("4711", "", "00010101", "M"),
        ("4711", "", "01.01.1970", "M"), ("4711", "", "11111111", "M"), ("4711", "", "18991230", "F"),
        ("4711", "", "99991231", "F"), ("4711", "", "20991112", "F"),
        ("4711", "UNKNOWN^UNKNOWN", "", "M"), ("4711", "Unbekannt", "", "M"), ("4711", "TRAUMA", "", "M"),
        ("4711", "Trauma^Male", "", "M"), ("4711", "Doe^John", "", "M"), ("4711", "Homme^Inconnu", "", "M"),
        ("4711", "НЕИЗВЕСТНЫЙ^Мужчина", "", "M"), ("4711", "不明", "", "M"), ("4711", "XXX^XXX", "", "M"),
        ("4711", "Notfall^S 7", "", "F"), ("4711", "Miller^J", "", "F"), ("4711", "Miller^Jane", "", "O"),
        ("UNKNOWN", "", "19650312", "M"), ("IGNOTO", "Miller^Jane", "", "F"), ("不明", "", "19650312", ""),
        ("0000", "", "19650312", ""), ("9999999", "Miller^Jane", "", "F"), ("12345678", "", "19650312", ""),
        ("TRAUMA-47", "", "19650312", "M"), ("-", "", "19650312", ""), ("Emerg. 12", "Miller^Jane", "", "F"),
    ],
    ids=str,
)  # fmt: skip
def test_two_who_share_a_placeholder_are_not_surely_one(who: tuple[str, str, str, str]) -> None:
    patient_id, *others = who
    one, other = (Patient.from_values(patient_id, "A", *others) for _ in range(2))
    assert not one.is_surely(other)


def test_an_issuer_is_its_name_with_its_universal_id_and_what_is_not_said_contradicts_nothing() -> None:
    qualifiers = '[{"(0040,0031)": "HERE"}, {"(0040,0032)": "1.2.3", "(0040,0033)": "ISO"}]'
    said = {"IssuerOfPatientID": "HERE", "IssuerOfPatientIDQualifiersSequence": qualifiers}
    assert issuer_of(said) == "HERE&1.2.3&ISO"
    alike = {issuer for issuer in ("", "HERE", "&1.2.3&ISO") if not issuers_differ(issuer_of(said), issuer)}
    assert alike == {"", "HERE", "&1.2.3&ISO"}
    assert issuers_differ(issuer_of(said), "HERE&1.2.4&ISO")
    assert issuers_differ(issuer_of(said), "THERE")


@pytest.mark.parametrize(
    ("who", "is_sure"),
    [
        (("4711", "Miller^Jane", "19650312", "F"), True),
        (("4711", "Miller^Jane", "19650101", "F"), False),
        (("4711", "Miller^Jane", "", "F"), False),
        (("UNKNOWN", "Miller^Jane", "19650312", "F"), False),
    ],
    ids=["birth date", "New Year", "name alone", "placeholder"],
)
def test_what_the_first_release_stored_is_one_person_by_id_and_birth_date(
    who: tuple[str, str, str, str], is_sure: bool
) -> None:
    patient_id, *others = who
    today = Patient.from_values(patient_id, "A", *others)
    stored = str(today).rpartition(";")[0]  # it knew no doubts
    before = Patient.parse(with_doubts(stored, patient_id))
    assert before.is_surely(today) is is_sure
    assert before.is_surely(before) is is_sure
