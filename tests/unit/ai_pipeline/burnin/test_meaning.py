"""What a text means: a name, a date and a number of a person are identity."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ai_pipeline.burnin.card import UltrasoundOptions
from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.decide.meaning import (
    LEAST_CONFIDENCE,
    LEAST_OF_SETTING,
    SETTING_CHARACTERS,
    Allowed,
    meaning_of,
    names_a_place,
    names_a_view,
)
from ai_pipeline.burnin.decide.vocabulary import ALSO_NAMES, PLACES
from ai_pipeline.contract import Meaning
from tests.unit.ai_pipeline.burnin.cleaning_lab import ACOUSTIC, IDENTITY
from tests.unit.ai_pipeline.burnin.names_lab import NAMES, UNSAFE_LABELS
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, echo, image_header, silent

HARMLESS = {
    ACOUSTIC: (
        "MI 0.9", "MI0.9", "Ml 0.9", "TIs 0.3", "TIB 0.5", "TIS0.1 MI 1.2", "MI0.9TIs0.3", "Gn 50",
        "Gn50", "DR 70", "Frq 5.0 MHz", "Frq5.0MHz", "FR 32Hz", "FR 32 fps", "PRF 1.3kHz", "PRF 4000Hz",
        "WF 88Hz", "2D", "THI", "70dB", "AO% 100", "AO 100%", "P90%", "S/A 1/2", "Map F/0", "C5-1",
        "C5-1 19Hz", "ML6-15", "H4.00MHz -10dB", "WF Low", "Z 1.0", "4.0 MHz", "COLOR DOPPLER",
        "SRI II 3/CRI 2", "SRIⅡ2", "C5 / M4", "Gn-0.6", "PRF-0.9kHz",
        "C6 / M7*", "FF2/E3*", "Frą mid",
        "Qúal norm", "WMF 10W1", "/PRF 0.6kHz", "Routine 2 Trim./OB", "Routine HI",
        "2+3.Trim.", "2. Trim.", "3.Trim", "Har-high", "Har-intermedia", "Adult Echo", "Gen OB",
        "47/56", "62/73", "MIm:1.5", "Qscan:85",
        "60°/28Hz", "60/ 21Hz", "65°/1.7", "25Hz/15.6cm", "3 Trim./OB", "Penetration", "HL 6.40 - 4.03",
        "HM PI 6.80 - 2.80",
        "HM PI 11.80 - 2.50", "-6cmis", "6cmls", "Har-alta",
        "IM 0.8", "ITm 0.2", "HPén-HGén", "PRC 16/4/1 PRS 4", "PST 0", "RES-A", "XV C3",
        "PRC 12-3-L PRS 3", "XV 1", "BG:21 75/+/4/5/2/A/6", "TCD", "Abd Vasc",
        "TAC1", "DVA: 94%", "G 54%", "P 30mm", "T4.4", "Qscan:80 /MDR:50/MFT4.4",
        "Mlm:1.5", "81 kVp", "81kV 2.5mAs", "4Gray Map;5", "3HI REZ+;4", "6R-Filter;A", "B-Dyn.;75",
        "Frec. 10.0", "FR:42", "G66 DR60 FR32", "Line Density Med", "Verstärkung 60 dB", "Profondeur 12 cm",
        "动态范围 60", "L25xp/13-6 Ophthalmic", "C5-1/FETAL HEART", "1.7/3.4 MHz", "Dyn R 58",
        "9123 5.0 R15 G66 C6 A2", "EDGE 50%", "2D Gain 48", "Color Gain 45%", "977:977", "No.84/84",
        "[2D]G50/128dB/FA10/P90/FSI 1", "[PW]G50/F1/2.50 kHz/1.00@11.00 mm/0°", "B161°/V120°/5.0cm",
        "15 Hz/1.6", "HL5-12ED", "P2-4AH", "18L7", "M3 M4", "Général /Basic", "F 1.5~3.5", "DTCE Hoch",
        "Ris./Vel.", "SoS 1500", "F# 2", "138/38", "Gen.", "58%", "Hand/Foot|",
        "C5/M4", "C5 / M4", "FF3/E2", "SRI II 3 / CRI 2", "Qual norm", "WMF low1", "Frq mid",
    ),
    Meaning.MEASUREMENT: (
        "Lt Ut-PS 70.64cm/s", "Umb-RI 0.52", "Umb-HR 171bpm",
        "D 3.45 cm", "D3.45cm", "1 L 23.1mm", "1L23.1mm", "1D2.31cm", "1.D.9.92cm",
        "+ Dist 2.31 cm", "+Dist2.31cm",
        "Dist 1 2.31cm", "D1: 3.45 cm", "2.31 x 1.45 x 3.20 cm", "2.31x1.45cm", "2,31 cm", "Vol 12.3 ml",
        "Vol12.3ml", "RI 0.65", "PSV 43.2 cm/s", "HC 245.3mm GA 26w3d", "BPD64.5mm", "EFW 1234g",
        "D1", "D2:", "Volumen A351.4 cm3", "Calip", "EF 58%",
        "HR 72 bpm", "12.3cm", "ENDO 8.2mm", "1 D 2.31cm 2 D 1.45cm", "Area 3.21 cm²",
        "Asc Ao Diam 3.3 cm", "\ue000 Asc Ao Diam 3.3 cm", "Asc Ao Index 2.0", "LVIDd 4.5 cm", "IVSd 1.1cm",
        "÷ Asc Ao Diam 3.3 cm", "Asc Ao Index", "Index 2.0", "+ Cist Mag", "Cist Mag 5.1 mm", "4.0 cm-",
        "MV E 80 cm/s", "LA Diam 3.4 cm", "RT OVARY D1 2.34 cm", "D", "+", "Dist",
        "距离 2.28 cm", "1距离3.26cm", "面积 3.2 cm2", "+ Abstand 2.3 cm", "Largo 31 mm", "周长 12.3 cm",
    ),
    Meaning.SCALE: ("0", "5", "10", "15", "45", "100", "120", "-60", "-4.0", "38.5", "0.5", "+20", "10 •",
        "-10"),
    Meaning.ORIENTATION: (
        "L", "R", "LT", "Rt", "LEFT", "Right", "SAG", "TRANS", "TRV", "Transverse", "OVARY", "UTERUS",
        "Bladder", "LIVER", "RT KIDNEY", "LT OV CYST", "L-OV", "R-OV", "RT OVARY",
        "Rt Ovary", "RTOVARY", "LUNG BASE",
        "LONG AXIS", "RT KIDNEY LONG", "GALLBLADDER", "IVC", "GB", "ROV", "CYST 2", "rt axilla",
        "LOWER POLE",
        "PORTABLE", "SUPINE", "Semi-Upright", "L UPRIGHT", "STEHEND",
        "CODO", "RODILLA", "ELLENBOGEN", "GENOU",
        "IZQ", "OVARIO DERECHO", "OVARIO IZQUIERDO", "Ovaire gauche", "FÍGADO", "左卵巢", "右侧",
        "HARNBLASE", "LI NIERE RENAL", "feto b", "FETUS A", "자궁", "좌측 난소",
        "PERIPHERAL ZONE LEFT PROSTATE", "PAROI CAECUM", "VEJIGA PREMICCION", "3CH",
        "Spleen Length", "颈动脉血管", "PROFILE", "TRIANGULO FACIAL", "LABIOS", "IT'S A GIRL",
    ),
    Meaning.LOGO: ("GE", "GE Healthcare", "SIEMENS", "PHILIPS", "SAMSUNG MEDISON", "Mindray",
        "'Voluson", "·Voluson"),
}  # fmt: skip


PLACES_ALONE = (
    "HAND", "LT HAND", "R FOOT", "Hand", "NOSE/LIPS", "BABY GIRL", "LS", "AV", "L 3", "RT 9", "R-M", "4CV",
    "HEAD 2", "LEBER RE", "Niere li", "REIN D", "RENE DX", "RIM E", "CARA FETAL", "MANO DER", "DALAK SOL",
    "NIER LINKS", "LONG",
)  # fmt: skip
NO_PLACES = (
    "SMITH", "HAND MARIA", "LONG JOHN", "HEAD, JOHN", "D HAND", "A HAND", "HAND 45", "BABY KIM", "RENE",
    "CARA", "NINA", "Ls", "LI", "LI RE", "DER", "ICA", "RENE HAND", "HAND A", "L", "", "12.03",
)  # fmt: skip


def test_a_part_of_the_body_names_a_place_and_a_name_beside_it_does_not() -> None:
    assert [words for words in PLACES_ALONE if not names_a_place(words)] == []
    assert [words for words in NO_PLACES if names_a_place(words)] == []


def test_of_the_words_that_name_a_place_alone_few_are_names() -> None:
    taken = {name for name in NAMES if names_a_place(name) or meaning_of(name, 1.0) is Meaning.ORIENTATION}
    assert {name.upper() for name in taken} <= ALSO_NAMES | PLACES


HOSPITALS = (
    "CITY HOSPITAL",
    "St. Vera Clinic",
    "Klinikum Nord",
    "Praxis am Markt",
    "한빛여성병원",
    "OB/GYN DEPT",
    "DIAGNOSTIC IMAGING",
    "VASCULAR SURGERY",
    "REGIONAL SURGICAL",
)


DATE_FORMATS = (
    "%Y%m%d", "%Y-%m-%d", "%d.%m.%Y", "%d.%m.%y", "%m/%d/%Y", "%m/%d/%y", "%d/%m/%Y", "%d-%b-%Y",
    "%d %b %Y", "%b %d, %Y", "%d%b%y", "%Y/%m/%d", "%Y.%m.%d", "%d %m %y", "%d %m %Y", "%B %d %Y",
    "%Y년 %m월 %d일", "%d.%m.", "%m/%d", "%d-%m-%y", "%H:%M", "%H:%M:%S", "%I:%M %p", "%Y", "DOB %d/%m/%Y",
    "LMP %d.%m.%y", "EDD %d-%b", "%H.%M",
)  # fmt: skip


OTHERS = (
    "45Y", "045Y", "45 yrs", "F/45", "45F", "M 45", "F 45", "M", "F", "072", "72 kg", "165 cm", "165cm",
    "1967", "99", "Dr. Long", "R LONG", "Lt Long", "Op: JK", "ID", "Name", "Acc", "R10:15", "Tech RN",
    "Room 3", "12 03", "0 5 10 15", "Ｋｉｍ", "K I M", "A B", "J D", "LIVER KIM", "MI 0.9 KIM",
    "D 3.45 cm Lee", "PHILIPS ANNA", "Harlow", "HARLOW", "Har Low", "P Max", "P Low", "Pers Max", "Sens Low",
    "Fr 45", "FR 45", "SRI 45", "Sri 45", "C5/M45", "HU L 12.03 - 9.30", "H M 12.03-14.05", "HM 12.03-9.30",
    "Sri Bo Gri 4", "Sri Win", "Sri Dwi 3", "SRI INDRA 3 / CRI 2", "SRI WIN / CRI", "C5/M45*", "CS/M4",
    "C57M4", "P47E3", "100G", "/45", "/KIM", "/MAG.1.67", "/THI", "/KIM 3", "Fra mid", "Frą Kim", "Routine 2",
    "Routine Kim",
    "Lee 2 Trim.", "Quan Low", "Saul Low", "Qual", "WMF Low 45",
    "R 12 M 45", "JONES 45 R 15 G 66", "Kim 4 Lee 5 Ng 6",
    "24/123", "123/24", "12/124", "115/122", "045/123", "045/046", "HM P 12.03 - 9.30", "HM PI 12.03 - 9.30",
    "Kidney B", "Der", "Feto Kim", "Feto Kim B", "Feto Long", "R Stone Feto", "Largo", "Alto B", "Largo 45 s",
    "Kim-PS", "Kim-RI 0.52", "12/3/4/5/6/7",
    "EDGE 45", "PROF 45", "D GAIN 45", "Dr. GAIN", "DR GAIN", "MI 45 ANNA", "LONG DR 60", "DMR 123",
    "Map KIM", "KIM Map 45", "SMITH 50%", "Map 12.03", "Map 01.02.1967", "Focus 45Y", "余辉 45",
    "POWER 45", "M 12.03", "No.84/97", "GATE 52 cm", "S 1/2/3", "MIX 12/67",
    "D12/M03/Y67", "A12/B34/C56", "C 12/03/67", "M45/F32/K12", "12/12", "M3 45", "F3", "RD", "S12-345",
    "FC 62 s", "FC 62%", "Höhe 52 cm", "高度 99 cm", "Longitud 52 cm", "6cmKs",
)  # fmt: skip


MANY = settings(max_examples=100)
harmless = st.sampled_from([text for texts in HARMLESS.values() for text in texts])


@pytest.mark.parametrize("meaning", HARMLESS)
def test_what_machines_write_is_known_for_what_it_is(meaning: Meaning) -> None:
    assert [text for text in HARMLESS[meaning] if meaning_of(text, 0.97) is not meaning] == []


@pytest.mark.parametrize("meaning", HARMLESS)
def test_what_is_not_read_with_confidence_is_identity(meaning: Meaning) -> None:
    def is_long_setting(text: str) -> bool:
        return meaning is ACOUSTIC and sum(map(str.isalnum, text)) >= SETTING_CHARACTERS

    for text in HARMLESS[meaning]:
        assert meaning_of(text, LEAST_CONFIDENCE - 0.001) is (
            meaning if is_long_setting(text) else IDENTITY
        ), text
        assert meaning_of(text, LEAST_OF_SETTING - 0.001) is IDENTITY, text
        assert meaning_of(text, float("nan")) is IDENTITY, text


def test_a_name_alone_is_identity() -> None:
    written = {
        spelling
        for name in (*NAMES, *HOSPITALS, *OTHERS)
        for spelling in (
            *(name, name.upper(), name.lower(), name.title()),
            *(f"{name},", f"{name}^{name}", f"1 {name}"),
        )
    }
    assert [name for name in sorted(written) if meaning_of(name, 1.0) is not IDENTITY] == []


@MANY
@given(
    name=st.sampled_from(NAMES).filter(lambda name: name.upper() not in UNSAFE_LABELS),
    known=harmless,
    write=st.sampled_from([str, str.upper, str.lower, str.title]),
    joint=st.sampled_from([" ", "  ", ": ", ", ", "/", " - ", "\n"]),
    first=st.booleans(),
)
def test_a_name_beside_harmless_text_makes_all_of_it_identity(
    name: str, known: str, write: Callable[[str], str], joint: str, first: bool
) -> None:
    text = joint.join((write(name), known) if first else (known, write(name)))
    # "LIVER LONG": the noun says what the word is
    a_word = name.upper() in ALSO_NAMES and names_a_view(known)
    assert a_word or meaning_of(text, 1.0) is IDENTITY


@MANY
@given(
    day=st.dates(date(1900, 1, 1), date(2035, 12, 31)),
    form=st.sampled_from(DATE_FORMATS),
    known=harmless | st.just(""),
    first=st.booleans(),
)
@example(day=date(2000, 12, 3), form="%d.%m.", known="", first=True)
def test_a_date_or_time_is_identity_alone_and_beside_harmless_text(
    day: date, form: str, known: str, first: bool
) -> None:
    written = day.strftime(form)
    text = f"{written} {known}" if first else f"{known} {written}"
    assert meaning_of(text.strip(), 1.0) is IDENTITY


@MANY
@given(
    number=st.from_regex(r"[A-Z]{0,3}[-_ ]?\d{5,14}", fullmatch=True)
    | st.from_regex(r"\d{1,4}[-/.]\d{4,8}", fullmatch=True)
    | st.from_regex(r"[A-Z]{2,4}\d{3,8}[A-Z]?", fullmatch=True)
    | st.from_regex(r"\d{3} \d{2} \d{4}", fullmatch=True),
    known=harmless | st.just(""),
    first=st.booleans(),
)
def test_a_number_of_a_person_is_identity(number: str, known: str, first: bool) -> None:
    shown = meaning_of((f"{number} {known}" if first else f"{known} {number}").strip(), 1.0)
    setting = number[:2] in {"DR", "FR", "AO", "GN"} and len(number.strip("ADFGNOR ")) <= 3
    assert shown is IDENTITY or setting


@MANY
@given(text=st.text(max_size=40), confidence=st.floats(allow_nan=True))
@example(text="MI 0.9 " * 40, confidence=1.0)
def test_any_text_has_a_meaning_and_takes_no_time(text: str, confidence: float) -> None:
    found = meaning_of(text, confidence)
    assert found in Meaning
    assert len(text) < 200 or found is IDENTITY  # so long: prose


HEADER = image_header(
    age_years=40.0,
    attributes={"StudyDate": "20260107", "AcquisitionDate": "20260108", "ContentDate": "x"},
)


ALLOWED = Allowed.from_options(["R-CY", "rt3"], "keep", HEADER)


STAYS = (
    "07.01.2026", "7/1/26", "01/07/2026", "2026-01-07", "20260107", "07-Jan-2026", "Jan 7, 2026",
    "08 JANUARY 2026 10:32:11", "07.01.2026 10:32", "10:32:11 AM", "R-CY", "r-cy:", "RT3", "R-CY 5.2 cm",
    "rt3 LONG LIVER",
)  # fmt: skip


GOES = (
    "09.01.2026", "07.01.1956", "07.01.2026 09.03.1941", "R-CY SMITH", "DOB 07.01.2026", "107.01.20263",
    "20260107123", "SMITH 10:32", "4071-R-CY", "26:61",
    "20260107-12", "20260107 45", "2026-01-07-12", "20260107.12", "A20260107", "20260107 B",
    "20260107 12/56", "07.01.2026 10:32 45", "D 20260107-12",
)  # fmt: skip


def test_what_is_allowed_stays_where_it_is_surely_read_and_nothing_beside_it_or_like_it() -> None:
    stays = [text for text in STAYS + GOES if meaning_of(text, 0.99, ALLOWED) is not IDENTITY]
    assert stays == list(STAYS)
    assert meaning_of("R-CY", 0.8, ALLOWED) is IDENTITY
    assert {meaning_of(text, 0.99) for text in ("07.01.2026", "10:32:11", "R-CY", "RT3")} == {IDENTITY}


def test_dates_are_those_of_the_header_and_none_of_a_newborn() -> None:
    assert ALLOWED.dates == {date(2026, 1, 7), date(2026, 1, 8)}
    for age in (0.0, None):
        assert Allowed.from_options([], "keep", replace(HEADER, age_years=age)).dates == frozenset()
    assert Allowed.from_options([], "remove", HEADER) == Allowed()


@pytest.mark.parametrize(
    ("options", "option", "remedy"),
    [
        ({"dates": "yes"}, "dates", "must be remove or keep"),
        ({"keep_words": "R-CY"}, "keep_words", "must be a list of words"),
        ({"keep_words": ["R CY"]}, "keep_words", "'R CY' is not one word"),
        ({"keep_words": [""]}, "keep_words", "of 1 to 24 characters"),
        ({"keep_words": ["x"] * 201}, "keep_words", "at most 200 words"),
    ],
)
def test_a_faulty_option_is_told(options: dict[str, object], option: str, remedy: str) -> None:
    assert remedy in UltrasoundOptions.faults(options)[option]


def test_under_research_nothing_stays_and_the_options_say_so() -> None:
    keep = {"dates": "keep", "keep_words": ["R-CY"]}
    assert sorted(UltrasoundOptions.faults({"policy": "research", **keep})) == ["dates", "keep_words"]
    assert UltrasoundOptions.faults(keep) == {}


def test_in_a_picture_the_date_of_the_examination_stays_and_the_name_goes() -> None:
    picture = burn(echo(), "KIM MINJUN 09.03.1967", (10, 8), 255, 18)
    picture = burn(picture, "07.01.2026 10:32:11", (250, 330), 255, 18)
    removed = {
        one.text[:10]: one.removed
        for one in clean(ArrayImage(picture[None]), silent, allowed=ALLOWED).readings
    }
    assert removed["07.01.2026"] is False
    assert any("KIM" in text and removed[text] for text in removed)
