"""Screens of devices are learnt: labels and fields are offered, persons, places and days never are."""

import json
import secrets
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_pipeline.burnin.devices.forms import LONGEST, form_of, says_whose
from ai_pipeline.burnin.devices.profile import MOST_TEXTS
from ai_pipeline.burnin.screens.counting import (
    ENOUGH,
    FEWEST_PATIENTS,
    LARGEST,
    MOST_FORMS,
    MOST_PLACES,
    MOST_READINGS,
    ScreenCounts,
)
from ai_pipeline.burnin.screens.offers import Choice, offers_of
from ai_pipeline.burnin.screens.places import Form, Place
from tests.unit.ai_pipeline.burnin.names_lab import NAMES
from tests.unit.ai_pipeline.burnin.screens_lab import (
    KEY,
    ROWS,
    Written,
    block,
    boxes_that_go,
    identity,
    learnt,
    name_of,
    offered,
    place,
    reading,
)

STAYS, ASK = Choice.STAYS, Choice.ASK
Screen = Callable[[int], Written]


def settings_of(number: int) -> Written:
    """A block of settings whose words nobody knows, with values that differ."""
    return block(
        f"qFLM {number}", f"Zrk {number + 2}%", "MSCSKEL", f"Tfe {number % 7}.5cm", f"SkL {number % 9}"
    )


def with_settings(*more: tuple[str, int, int]) -> Screen:
    return lambda number: [*settings_of(number), *more]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Gn 45", "Gn#"),
        ("12.5 MHz", "#MHz"),
        ("MI1,1", "MI#"),
        ("C5-1", "C#-#"),
        ("165 cm", "165cm"),
        ("65 cm", "#cm"),
        ("165 cm/s", "#cm/s"),
        ("4000 Hz", "#Hz"),
        ("1967", "1967"),
        ("4711815", "4711815"),
        ("", ""),
    ],
)
def test_a_form_has_a_sign_for_each_number_that_a_setting_may_have(text: str, form: str) -> None:
    assert form_of(text) == form


@pytest.mark.parametrize(
    "text",
    [
        *("12.03.1967", "12/03", "2026-01-07", "10:32", "10:32 pm", "7 Jan", "Jan 7", "4711815", "1967"),
        *("45Y", "045 Y", "72 kg", "F 45", "M45", "Age 45", "Alter: 45", "Wt 70.5", "Ht 99cm", "Dr. Huber"),
        *(
            "Room 3",
            "Klinik",
            "St. Vera Clinic",
            "F",
            "M",
            "K",
            "",
            "-",
            "x" * (LONGEST + 1),
            "ID 12",
            *("45F", "45/F", "F:45", "45 yo", "45 anni", "45años", "45岁", "KG72", "W:72"),
            *("12 août 67", "12avr67", "12Mrz67", "12–03–67", "12·03·67", "12|03|67", "67年3月12日"),
            *("DrHuber", "KlinikNord", "PatientID"),
            "a\x7fb",
        ),
    ],
)
def test_what_has_the_form_of_a_person_a_place_or_a_day_is_nobodys_setting(text: str) -> None:
    assert says_whose(text)


def test_unknown_labels_and_fields_of_a_block_are_asked_about() -> None:
    assert offered(learnt(settings_of)) == dict.fromkeys(("qFLM#", "Zrk#%", "MSCSKEL", "Tfe#cm", "SkL#"), ASK)


def test_labels_and_values_in_two_columns_are_asked_about_unless_a_unit_proves_them() -> None:
    def screen(number: int) -> Written:
        values = [str(number + 3), str(number % 9), f"{number + 20} dB"]
        return [*block("Verst", "Kontur", "Umfang"), *block(*values, left=160)]

    found = offered(learnt(screen))
    assert [found.pop(text) for text in ("#dB", "Verst")] == [STAYS, STAYS]  # "Verst": a known label
    assert found == dict.fromkeys(("Kontur", "Umfang", "#"), ASK)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ([("Hubersohn", 20, 320), ("TIS 0.3", 140, 320)], "Hubersohn"),
        ([("Nord", 20, 320), ("3", 100, 320)], "Nord"),
        ([("Hubersohn 2s", 20, 320)], "Hubersohn#s"),
        ([("Vinzenz 12 Hz", 20, 320)], "Vinzenz#Hz"),
    ],
    ids=["beside a setting", "a room", "seconds", "a unit"],
)
def test_a_name_is_not_proposed_to_stay_by_what_is_beside_it(written: Written, text: str) -> None:
    assert offered(learnt(with_settings(*written))).get(text) is not STAYS


def test_no_text_that_goes_is_stored() -> None:
    counts = learnt(lambda _: [("Mueller", 600, 300)])
    assert offered(counts) == {}
    assert b"Mueller" not in counts.to_bytes()


def test_the_blocks_of_a_full_screen_are_found_at_once() -> None:
    counted = (1 << FEWEST_PATIENTS) - 1
    places = [
        Place((20, 20 * row, 90, 20 * row + 16), forms=[Form(f"{row}", counted, text=f"Zrk{row}#%")])
        for row in range(600)
    ]
    assert len(offers_of(places, 12_000)) == MOST_TEXTS


def test_what_never_changes_is_a_label_with_its_digits() -> None:
    found = offered(learnt(lambda _: block("Qx 2", "Zrk 30%", "Nord 7", "Gain 60 dB")))
    assert found == {"Qx2": ASK, "Zrk30%": ASK, "Nord7": ASK, "Gain60dB": STAYS}


@pytest.mark.parametrize("patients", [FEWEST_PATIENTS - 1, 40])
def test_a_text_is_stored_once_enough_patients_had_it(patients: int) -> None:
    counts = learnt(settings_of, patients)
    assert (b"MSCSKEL" in counts.to_bytes()) is (patients >= FEWEST_PATIENTS)
    assert bool(offered(counts)) is (patients >= FEWEST_PATIENTS)


def test_many_images_of_few_patients_are_not_enough() -> None:
    counts = learnt(settings_of, 5)
    for _ in range(20):
        learnt(settings_of, 5, counts=counts)
    assert offered(counts) == {}
    assert counts.patients <= 5


def head_line(number: int) -> Written:
    """The head line of a patient, with a clinic, a doctor and initials that are those of all patients."""
    return [
        (name_of(number), 20, 10),
        (f"98{number:05}", 300, 10),
        ("30.11.2026", 600, 10),
        ("Sankt Vera", 20, 30),
        ("Huber", 300, 30),
        ("RB", 600, 30),
        ("Nord 3", 450, 10),
        (f"Fall {number}", 850, 10),  # far from all others of the row
    ]


def test_of_a_head_line_nothing_is_offered_though_it_repeats() -> None:
    counts = learnt(lambda number: [*settings_of(number), *head_line(number)])
    assert set(offered(counts)) == {"qFLM#", "Zrk#%", "MSCSKEL", "Tfe#cm", "SkL#"}
    stored = counts.to_bytes()
    assert [word for word in (b"Vera", b"Huber", b"Nord", b'"RB"') if word in stored] == []


@pytest.mark.parametrize(
    ("keyword", "value", "text"),
    [
        ("ReferringPhysicianName", "Huber^Eva", "Huber"),
        ("OperatorsName", "Brandt", "BRANDT 3"),
        ("InstitutionName", "Sankt Vera", "St Vera"),
        ("StationName", "SONO3", "Sono 3"),
        ("PerformingPhysicianName", "Lindqvist", "Lindqvjst"),
    ],
)
def test_names_of_staff_clinic_station_and_referrer_are_never_offered(
    keyword: str, value: str, text: str
) -> None:
    written = with_settings((text, 20, 320))  # in the block
    found = learnt(written, **{keyword: value})
    assert form_of(text) not in offered(found)
    assert text.replace(" ", "") not in offered(found)


def test_a_name_that_only_some_headers_have_is_not_offered() -> None:
    written = with_settings(("Huber", 20, 320))
    counts = learnt(written, 30)
    assert offered(counts)["Huber"] is ASK
    for number in range(30, 33):
        readings = [reading(*one) for one in written(number)]
        counts.add(f"patient {number}", readings, identity(number, ReferringPhysicianName="Huber"))
    assert "Huber" not in offered(counts)
    assert b"Huber" not in counts.to_bytes()


def test_a_label_that_is_one_patients_name_stays_a_label() -> None:
    counts = ScreenCounts(KEY, ROWS)
    for number in range(30):
        who = identity(number, **({"PatientName": "qFLM^Mia"} if number == 5 else {}))
        counts.add(str(number), [reading(*one) for one in settings_of(number)], who)
    assert offered(counts)["qFLM#"] is ASK


@pytest.mark.parametrize(
    ("text", "left", "top"),
    [("RB", 120, 400), ("Huber", 120, 400), ("Nord 3", 20, 424), ("Huber", 20, 424), ("Huber", 20, 380)],
    ids=["initials beside", "name beside", "number that never varies below", "name below", "name above"],
)
def test_beside_a_date_nothing_is_offered(text: str, left: int, top: int) -> None:
    screen = with_settings(("30.11.2026", 20, 400), (text, left, top))
    assert form_of(text) not in offered(learnt(screen))
    assert text not in offered(learnt(screen))


@pytest.mark.parametrize("text", ["Huber", "Sankt Vera", "RB", "Nord", "Nord 3"])
def test_a_word_that_stands_alone_is_not_offered(text: str) -> None:
    assert text.replace(" ", "") not in offered(learnt(with_settings((text, 500, 560))))


@pytest.mark.parametrize("text", ["RB", "K"])
def test_initials_among_settings_are_not_offered(text: str) -> None:
    assert text not in offered(learnt(with_settings((text, 20, 320))))


def test_a_bare_number_without_a_label_is_not_offered() -> None:
    def screen(number: int) -> Written:
        return [*settings_of(number), (str(20 + number), 500, 400)]

    assert "#" not in offered(learnt(screen))


def test_a_number_with_its_unit_is_offered_beside_a_date_too() -> None:
    assert offered(learnt(lambda number: [("30.11.2026", 20, 10), (f"{number + 5} Hz", 140, 10)])) == {
        "#Hz": STAYS
    }


def test_the_places_of_names_and_dates_are_shown_without_a_text() -> None:
    offers = learnt(lambda number: [*settings_of(number), *head_line(number)]).offers()
    assert place("30.11.2026", 600, 10) in boxes_that_go(offers)
    assert {offer.text for offer in offers if offer.choice is Choice.GOES} == {""}


@pytest.mark.parametrize("name", NAMES[::9])
def test_no_name_that_varies_is_ever_stored(name: str) -> None:
    counts = learnt(lambda number: [*settings_of(number), (f"{name} {name_of(number)}", 20, 330)])
    assert name.encode() not in counts.to_bytes()
    assert json.dumps(name).strip('"').encode() not in counts.to_bytes()


def test_what_is_stored_says_nothing_without_the_key() -> None:
    first, again, other = (learnt(settings_of, 3) for _ in range(3))
    other = learnt(settings_of, 3, counts=ScreenCounts(secrets.token_bytes(32), ROWS))
    assert first.to_bytes() == again.to_bytes() != other.to_bytes()
    assert [word for word in (b"qFLM", b"MSCSKEL", b"patient 1") if word in first.to_bytes()] == []


def test_the_map_of_a_patient_differs_from_text_to_text() -> None:
    [one, other] = learnt(lambda _: block("Verst", "Kontur"), 1).places
    assert one.forms[0].patients != other.forms[0].patients


def test_counts_are_read_as_they_were_stored() -> None:
    stored = learnt(settings_of).to_bytes()
    again = ScreenCounts.from_bytes(KEY, ROWS, stored)
    assert again.to_bytes() == stored
    assert again.offers() == learnt(settings_of).offers()


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"{}",
        b'[2,"f",[]]',
        b'[1,"x",[]]',
        b'[1,"f",[[1]]]',
        b'[1,"f",[[1,2,3,4,"f",[[1]]]]]',
        b"[" * 100_000,
        b"\xff",
        b" " * LARGEST + b'[1,"f",[]]',
    ],
    ids=["none", "no list", "version", "no number", "short place", "short form", "deep", "no text", "large"],
)
def test_damaged_counts_are_no_counts(stored: bytes) -> None:
    counts = ScreenCounts.from_bytes(KEY, ROWS, stored)
    assert (counts.patients, counts.places) == (0, [])


def test_places_forms_and_readings_are_limited() -> None:
    counts = ScreenCounts(KEY, ROWS)
    for number in range(4):
        counts.add(
            "a", [reading("x1%", 40 * left, 30 * top) for left in range(20) for top in range(20)], identity()
        )
        counts.add(f"{number}", [reading(f"{chr(97 + one)}x%") for one in range(MOST_FORMS + 2)], identity())
    assert len(counts.places) == MOST_PLACES
    assert max(len(place.forms) for place in counts.places) == MOST_FORMS
    many = ScreenCounts(KEY, ROWS)
    many.add("a", [reading("x1%", 5)] * MOST_READINGS + [reading("y1%", 500)], identity())
    assert len(many.places) == 1


def test_the_fullest_counts_can_be_read_again() -> None:
    counts = ScreenCounts(KEY, ROWS)
    full = Form("f" * 16, (1 << 128) - 1, (1 << 128) - 1, "f" * 16, True, "x" * LONGEST)
    counts.places = [Place((9999,) * 4, (1 << 128) - 1, [full] * MOST_FORMS) for _ in range(MOST_PLACES)]
    assert len(ScreenCounts.from_bytes(KEY, ROWS, counts.to_bytes()).places) == MOST_PLACES


def test_what_is_rare_makes_room_for_what_is_not() -> None:
    counts = learnt(lambda number: [(f"{name_of(number)}x", 20, 100), ("Verst 30%", 20, 200)])
    for number in range(MOST_PLACES + 50):
        counts.add("a", [reading("noise", 13 * (number % 50), 7 * number)], identity())
    assert "Verst30%" in offered(counts)


def test_after_enough_patients_nothing_more_is_counted() -> None:
    counts = learnt(lambda _: block("Verst"), 600)
    assert counts.is_complete
    assert counts.patients == ENOUGH
    assert counts.add("another", [reading("other")], identity()) is False


@pytest.mark.parametrize("confidence", [0.59, float("nan")])
def test_what_is_not_surely_read_does_not_count(confidence: float) -> None:
    counts = ScreenCounts(KEY, ROWS)
    counts.add("a", [reading("Verst", confidence=confidence)], identity())
    assert counts.places == []


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=80), max_size=6), st.text(max_size=20))
def test_any_text_of_anybody_is_counted_and_read_again(texts: list[str], patient: str) -> None:
    counts = ScreenCounts(KEY, ROWS)
    counts.add(patient, [reading(text, top=30 * row) for row, text in enumerate(texts)], identity())
    assert ScreenCounts.from_bytes(KEY, ROWS, counts.to_bytes()).to_bytes() == counts.to_bytes()
