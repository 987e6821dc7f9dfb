"""What a burned-in text is for: harmless only when proven, and a line stays or goes whole."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from ai_pipeline.burnin.card import UltrasoundOptions
from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.decide.meaning import (
    LEAST_CONFIDENCE,
    LEAST_OF_SETTING,
    SETTING_CHARACTERS,
    Allowed,
    meaning_of,
)
from ai_pipeline.burnin.decide.vocabulary import ALSO_NAMES
from ai_pipeline.burnin.decide.writing import Text, around, by_best_reading, by_their_block, level_box
from ai_pipeline.burnin.find.annotation import Box, Mask
from ai_pipeline.burnin.find.networks import Line
from ai_pipeline.burnin.find.text import paint
from ai_pipeline.contract import ImageHeader, Meaning, Reading
from ai_pipeline.images.header import calibrated_regions, read_header
from tests.unit.ai_pipeline.phantoms import ArrayImage, burn, data_set, echo, image_header, silent

HARMLESS = {
    Meaning.ACOUSTIC: (
        "MI 0.9", "MI0.9", "Ml 0.9", "TIs 0.3", "TIB 0.5", "TIS0.1 MI 1.2", "MI0.9TIs0.3", "Gn 50",
        "Gn50", "DR 70", "Frq 5.0 MHz", "Frq5.0MHz", "FR 32Hz", "FR 32 fps", "PRF 1.3kHz", "PRF 4000Hz",
        "WF 88Hz", "2D", "THI", "70dB", "AO% 100", "AO 100%", "P90%", "S/A 1/2", "Map F/0", "C5-1",
        "C5-1 19Hz", "ML6-15", "H4.00MHz -10dB", "WF Low", "Z 1.0", "4.0 MHz", "COLOR DOPPLER",
        "SRI II 3/CRI 2", "SRIⅡ2", "C5 / M4", "Gn-0.6", "PRF-0.9kHz",
        "C6 / M7*", "FF2/E3*", "Frą mid",
        "Qúal norm", "WMF 10W1", "/PRF 0.6kHz", "Routine 2 Trim./OB", "Routine HI",
        "2+3.Trim.", "2. Trim.", "3.Trim", "Har-high", "Har-intermedia", "Adult Echo", "Gen OB",
        "47/56", "62/73", "99/100", "110/111", "MIm:1.5", "Qscan:85",
        "60°/28Hz", "60/ 21Hz", "65°/1.7", "25Hz/15.6cm", "3 Trim./OB", "Penetration", "HL 6.40 - 4.03",
        "HM PI 6.80 - 2.80",
        "HM PI 11.80 - 2.50", "-6cmis", "6cmls", "Har-alta",
        "IM 0.8", "ITm 0.2", "HPén-HGén", "PRC 16/4/1 PRS 4", "PST 0", "RES-A", "XV C3",
        "TAC1", "DVA: 94%", "G 54%", "P 30mm", "T4.4", "Qscan:80 /MDR:50/MFT4.4",
        "Mlm:1.5", "81 kVp", "81kV 2.5mAs",
        "C5/M4", "C5 / M4", "FF3/E2", "SRI II 3 / CRI 2", "Qual norm", "WMF low1", "Frq mid",
    ),
    Meaning.MEASUREMENT: (
        "D 3.45 cm", "D3.45cm", "1 L 23.1mm", "1L23.1mm", "1D2.31cm", "1.D.9.92cm",
        "+ Dist 2.31 cm", "+Dist2.31cm",
        "Dist 1 2.31cm", "D1: 3.45 cm", "2.31 x 1.45 x 3.20 cm", "2.31x1.45cm", "2,31 cm", "Vol 12.3 ml",
        "Vol12.3ml", "RI 0.65", "PSV 43.2 cm/s", "HC 245.3mm GA 26w3d", "BPD64.5mm", "EFW 1234g",
        "HR 72 bpm", "58%", "12.3cm", "ENDO 8.2mm", "1 D 2.31cm 2 D 1.45cm", "Area 3.21 cm²",
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
        "PERIPHERAL ZONE LEFT PROSTATE",
    ),
    Meaning.LOGO: ("GE", "GE Healthcare", "SIEMENS", "PHILIPS", "SAMSUNG MEDISON", "Mindray",
        "'Voluson", "·Voluson"),
}  # fmt: skip


NAMES = """
    Kim Lee Park Choi Jung Kang Cho Yoon Jang Lim Han Oh Seo Shin Kwon Hwang Ahn Song Ryu Hong Jeon Moon
    Yang Bae 김영희 이순자 박지우 최민서 정하은 김 이 박 최 홍길동 남궁민수
    Smith Johnson Williams Brown Jones Garcia Miller Davis
    Rodriguez Martinez Hernandez Lopez Gonzalez Wilson Anderson Thomas Taylor Moore Jackson Martin
    Thompson White Harris Sanchez Clark Ramirez Lewis Robinson Walker Young Allen King Wright Scott Torres
    Nguyen Hill Flores Green Adams Nelson Baker Hall Rivera Campbell Mitchell Carter Roberts Long Stone
    Head Lung Endo Colon Power Short Base Wall Bone Foote Hand Cross Post Rose Sage Lowe Mass Chin Cord
    Gall Leber Herz Mays Hart Art Sal Sid Ed Len Tad Lea Mia Max Cy Cor Ute Bea Ada Ida Dean Major Müller
    Schmidt Schneider Fischer Weber Meyer Wagner Becker Schulz Hoffmann Schäfer Koch Bauer Richter Klein
    Wolf Schröder Neumann Schwarz Zimmermann Braun Krüger Hofmann Hartmann Lange Werner Krause Lehmann
    Köhler Herrmann Dubois Moreau Laurent Lefebvre Leroy Roux Fournier Girard Bonnet Dupont Lambert
    Rousseau Blanc Guérin Chevalier Rossi Russo Ferrari Esposito Bianchi Romano Colombo Ricci Marino Greco
    Bruno Gallo Conti Costa Giordano Mancini Ivanov Petrov Sidorova Kuznetsova Смирнова Иванова Попова
    Соколов Kowalski Nowak Wiśniewska Wójcik Novák Svoboda Tanaka Suzuki Takahashi Watanabe Ito Yamamoto
    Nakamura Kobayashi Kato 田中 佐藤 鈴木 王 李 张伟 Wang Li
    Zhang Liu Chen Yang Zhao Huang Zhou Wu Xu Sun Hu Zhu
    Gao Lin He Guo Ma Luo Liang Zheng Tran Pham Hoang Phan Vu Dang Bui Ngo Ho Singh Kaur Sharma Verma
    Patel Gupta Khan Ahmed Hussain Ali Fatima Aisha Mohammed Haddad Yilmaz Kaya Demir Çelik Okafor Mensah
    Diallo Traoré Mbeki Abebe Silva Santos Oliveira Souza Pereira Lima Ferreira Alves Svensson Hansen
    Jensen Nielsen Virtanen Korhonen Papadopoulos O'Brien Al-Sayed van-Dijk Min-ji McDonald Mary Linda
    Anna Maria Emma Olivia Sophia Isabella Amelia Grace Hannah Elif Yuki Hana Priya Ananya Lena Ingrid
    Olga Natalia Chi Live Har
""".split()  # noqa: SIM905 - they are read as words


HOSPITALS = (
    "CITY HOSPITAL",
    "St. Vera Clinic",
    "Klinikum Nord",
    "Praxis am Markt",
    "한빛여성병원",
    "OB/GYN DEPT",
)


DATE_FORMATS = (
    "%Y%m%d", "%Y-%m-%d", "%d.%m.%Y", "%d.%m.%y", "%m/%d/%Y", "%m/%d/%y", "%d/%m/%Y", "%d-%b-%Y",
    "%d %b %Y", "%b %d, %Y", "%d%b%y", "%Y/%m/%d", "%Y.%m.%d", "%d %m %y", "%d %m %Y", "%B %d %Y",
    "%Y년 %m월 %d일", "%d.%m.", "%m/%d", "%d-%m-%y", "%H:%M", "%H:%M:%S", "%I:%M %p", "%Y", "DOB %d/%m/%Y",
    "LMP %d.%m.%y", "EDD %d-%b", "%H.%M",
)  # fmt: skip


UNSAFE_LABELS = frozenset({"ENDO", "LONG", "COLON", "MAX"})  # labels of values, or words beside a noun


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
    "24/123", "123/24", "12/124", "115/122", "045/123", "045/046", "HM P 12.03 - 9.30", "HM PI 12.03 - 9.30",
    "Kidney B", "Der", "Feto Kim", "Feto Kim B", "Feto Long", "R Stone Feto", "Largo", "Alto B", "Largo 45 s",
    "FC 62 s", "FC 62%", "Höhe 52 cm", "高度 99 cm", "Longitud 52 cm", "6cmKs",
)  # fmt: skip


harmless = st.sampled_from([text for texts in HARMLESS.values() for text in texts])


@pytest.mark.parametrize("meaning", HARMLESS)
def test_what_machines_write_is_known_for_what_it_is(meaning: Meaning) -> None:
    assert [text for text in HARMLESS[meaning] if meaning_of(text, 0.97) is not meaning] == []


@pytest.mark.parametrize("meaning", HARMLESS)
def test_what_is_not_read_with_confidence_is_identity(meaning: Meaning) -> None:
    def is_long_setting(text: str) -> bool:
        return meaning is Meaning.ACOUSTIC and sum(map(str.isalnum, text)) >= SETTING_CHARACTERS

    for text in HARMLESS[meaning]:
        expected = meaning if is_long_setting(text) else Meaning.IDENTITY
        assert meaning_of(text, LEAST_CONFIDENCE - 0.001) is expected, text
        assert meaning_of(text, LEAST_OF_SETTING - 0.001) is Meaning.IDENTITY, text
        assert meaning_of(text, float("nan")) is Meaning.IDENTITY, text


def test_a_name_alone_is_identity() -> None:
    written = {
        spelling
        for name in (*NAMES, *HOSPITALS, *OTHERS)
        for spelling in (
            *(name, name.upper(), name.lower(), name.title()),
            *(f"{name},", f"{name}^{name}", f"1 {name}"),
        )
    }
    assert [name for name in sorted(written) if meaning_of(name, 1.0) is not Meaning.IDENTITY] == []


@settings(max_examples=100, deadline=None)
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
    a_word = name.upper() in ALSO_NAMES and meaning_of(known, 1.0) is Meaning.ORIENTATION
    assert a_word or meaning_of(text, 1.0) is Meaning.IDENTITY


@settings(max_examples=100, deadline=None)
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
    assert meaning_of(text.strip(), 1.0) is Meaning.IDENTITY


@settings(max_examples=100, deadline=None)
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
    assert shown is Meaning.IDENTITY or setting


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=40), confidence=st.floats(allow_nan=True))
@example(text="MI 0.9 " * 40, confidence=1.0)
def test_any_text_has_a_meaning_and_takes_no_time(text: str, confidence: float) -> None:
    found = meaning_of(text, confidence)
    assert found in Meaning and (len(text) < 200 or found is Meaning.IDENTITY)  # so long: prose


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
    stays = [text for text in STAYS + GOES if meaning_of(text, 0.99, ALLOWED) is not Meaning.IDENTITY]
    assert stays == list(STAYS) and meaning_of("R-CY", 0.8, ALLOWED) is Meaning.IDENTITY
    texts = ("07.01.2026", "10:32:11", "R-CY", "RT3")
    assert [text for text in texts if meaning_of(text, 0.99) is not Meaning.IDENTITY] == []


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
    readings = clean(ArrayImage(picture[None]), silent, allowed=ALLOWED).readings
    removed = {one.text[:10]: one.removed for one in readings}
    assert removed["07.01.2026"] is False and any("KIM" in text and removed[text] for text in removed)


SHAPE = (200, 300)


LINE: Box = (100, 40, 180, 60)


def text(words: str, box: Box = LINE, *, confidence: float = 0.95, legible: bool = True) -> Text:
    meaning = meaning_of(words, confidence) if legible else Meaning.IDENTITY
    return Text(level_box(box, 0.9), Line(words, confidence, legible=legible), meaning)


def block(*lines: tuple[str, int], left: int = 100, right: int = 180, high: int = 18) -> list[Text]:
    """Lines below each other, each with its top."""
    return [text(words, (left, top, right, top + high)) for words, top in lines]


def meanings(texts: list[Text]) -> list[Meaning]:
    return [one.meaning for one in texts]


def test_a_worse_reading_of_a_setting_is_a_setting() -> None:
    found = by_best_reading([text("C6 / M7"), text("C6Y M7"), text("", legible=False)])
    assert meanings(found) == [Meaning.ACOUSTIC] * 3


@pytest.mark.parametrize(
    ("proven", "other", "place"),
    [
        ("45", "45Y", LINE),
        ("MI 1.2", "MI 1.2 JK", LINE),
        ("MI 1.2", "KIM MI", LINE),
        ("12.3cm", "LEE JI", LINE),
        ("D 12cm", "12.03", LINE),
        ("MI 1.2 TIS 0.4", "M 1.2", (150, 40, 240, 60)),  # beside it
    ],
)
def test_a_reading_that_says_more_or_else_is_no_second_reading(proven: str, other: str, place: Box) -> None:
    assert by_best_reading([text(proven), text(other, place)])[1].meaning is Meaning.IDENTITY


@pytest.mark.parametrize(
    ("above", "below", "meaning"),
    [
        ("Har-mid", "Gn -2", Meaning.ACOUSTIC),
        ("KIM", "Gn -2", Meaning.IDENTITY),
        ("Har-mid", "", Meaning.IDENTITY),
    ],
)
@pytest.mark.parametrize("between", ["97", "FR 32", "P Low"])
def test_what_stands_between_two_settings_is_one(
    between: str, above: str, below: str, meaning: Meaning
) -> None:
    lines = [(above, 20), (between, 40), (below, 60)]
    assert by_their_block(block(*(one for one in lines if one[0])))[1].meaning is meaning


NO_SETTINGS = (
    *("C57M4", "CS/M4", "CB/M8", "CB/M11", "P47E3", "P4VE3", "100Y", "1004", "1006", "#100", "WM LOW"),
    *("WM LOW 45", "Fr. Omid", "FR AMID", "QUAN NORM", "CS M45", "Wolf Low", "Qualen M", "Quan Low"),
    *("Saul Low", "JM/4"),
)


def test_no_initials_age_or_number_between_two_settings_is_one() -> None:
    meanings = {
        between: by_their_block(block(("Gn -3", 20), (between, 40), ("FF3/E2", 60)))[1].meaning
        for between in NO_SETTINGS
    }
    assert [between for between, found in meanings.items() if found is not Meaning.IDENTITY] == []


@pytest.mark.parametrize("name", ["KIM MINJUN", "01.02.", "Fr. Omid"])
@pytest.mark.parametrize("place", [(80, 40, 146, 58), (80, 75, 300, 93)])
def test_a_name_beside_an_age_or_in_another_column_proves_the_contrary(name: str, place: Box) -> None:
    lines = block(("Gn -3", 20), ("95", 40), ("DR 60", 60), left=150)
    assert by_their_block(lines)[1].meaning is Meaning.ACOUSTIC
    assert by_their_block([*lines, text(name, place)])[1].meaning is Meaning.IDENTITY


@pytest.mark.parametrize("between", ["95", "FR 92", "P Low"])
@pytest.mark.parametrize(
    "lines",
    [
        ("ABDOMEN", "{}", "THYROID"),  # presets and frame counters stand beside a patient's name, too
        ("47/56", "{}", "62/73"),
        ("Gn -3", "{}", "ABDOMEN"),
        ("64%", "{}", "FF3/E2"),  # a result's value, which could be a stenosis beside a name
        ("Gn -3", "{}", "64%"),
    ],
)
def test_presets_frame_counters_and_results_prove_no_setting(between: str, lines: tuple[str, ...]) -> None:
    found = by_their_block(block(*((words.format(between), 20 * n) for n, words in enumerate(lines))))
    assert found[1].meaning is Meaning.IDENTITY


@pytest.mark.parametrize(("name", "meaning"), [([("KIM", 50)], Meaning.IDENTITY), ([], Meaning.ACOUSTIC)])
def test_a_name_within_reach_proves_the_contrary(name: list[tuple[str, int]], meaning: Meaning) -> None:
    lines = block(("Har-high", 15), ("95", 30), ("Gn 10", 45), *name, high=19)  # boxes of close lines overlap
    assert by_their_block(lines)[1].meaning is meaning


def mask_around(residue: Box, *, spare: bool, stays: Mask | None = None) -> Mask:
    line: Box = (100, 40, 180, 56)
    stays = paint([text("Gn 50", line).box], SHAPE, 0.15) if stays is None else stays
    return around([text("KIM", residue).box], [line], stays, 0.6, spare=spare)


@pytest.mark.parametrize(
    ("residue", "spare", "goes"),
    [
        ((100, 22, 180, 40), True, False),  # above the line, which is not cut
        ((100, 24, 180, 42), True, True),  # reaches into it
        ((100, 24, 180, 42), False, True),
        ((60, 38, 120, 58), True, True),  # shares it
        ((160, 38, 260, 58), True, True),
    ],
)
def test_a_line_below_a_name_that_is_found_late_goes_whole_or_stays_whole(
    residue: Box, spare: bool, goes: bool
) -> None:
    found = mask_around(residue, spare=spare)
    line = found[40:56, 100:180]
    assert (line.all() if goes else not line.any()) and found[residue[1] : 40, residue[0] : residue[2]].all()


def test_a_line_is_not_spared_that_does_not_stay_whole() -> None:
    part = np.zeros(SHAPE, np.bool_)
    part[40:50, 100:180] = True
    assert mask_around((100, 24, 180, 42), spare=True, stays=part)[40:50, 100:180].all()


def test_a_model_below_its_makers_name_is_a_logo() -> None:
    lines = [text("Voluson", (20, 20, 60, 32)), text("E6", (30, 34, 50, 46)), text("E6", (200, 34, 220, 46))]
    assert meanings(by_their_block(lines)) == [Meaning.LOGO, Meaning.LOGO, Meaning.IDENTITY]


def test_settings_below_settings_prove_what_is_a_setting_only_there() -> None:
    _, *rest = lines = block(("Gn 60", 40), ("C 61", 62), ("3/3/4", 84), right=150, high=20)
    below_a_name = [text("KIM MINJUN", (100, 40, 150, 60)), *rest]
    assert meanings(by_their_block(lines)) == [Meaning.ACOUSTIC] * 3
    assert meanings(by_their_block(rest[1:])) == [Meaning.IDENTITY]
    assert meanings(by_their_block(below_a_name)) == [Meaning.IDENTITY] * 3


def test_regions_are_calibrated_by_their_deltas() -> None:
    regions = [region((0, 0, 399, 599), delta=(0.02, -0.03)), region((400, 0, 799, 599), units=4)]
    (found,) = calibrated_regions(read_header(image(regions)))
    assert found.box == (0, 0, 400, 600)
    assert (found.column_spacing, found.row_spacing) == pytest.approx((0.2, 0.3))


@pytest.mark.parametrize("regions", [False, True])
def test_pixel_spacing_counts_where_there_are_no_regions(regions: bool) -> None:
    given = image([region((0, 0, 799, 599), units=4)] * regions, PixelSpacing=[0.2, 0.2])
    assert bool(calibrated_regions(read_header(given))) is not regions


def caliper(x: float, y: float) -> Reading:
    return Reading("1.2.3", None, "caliper", Meaning.MEASUREMENT, (x - 5, y - 5, x + 5, y + 5), 0.9, False)


def header() -> ImageHeader:
    return read_header(image([region((0, 0, 799, 599))]))


def region(
    box: tuple[int, int, int, int], *, units: int = 3, delta: tuple[float, float] = (0.02, 0.02)
) -> Dataset:
    corners = zip(("MinX0", "MinY0", "MaxX1", "MaxY1"), box, strict=True)
    return data_set(
        **{f"RegionLocation{name}": place for name, place in corners},
        PhysicalUnitsXDirection=units,
        PhysicalUnitsYDirection=units,
        PhysicalDeltaX=delta[0],
        PhysicalDeltaY=delta[1],
    )


def image(regions: list[Dataset], **more: Any) -> Dataset:
    size = {"Rows": 600, "Columns": 800, "BitsAllocated": 8, "BitsStored": 8}
    known = {"Modality": "US", "PhotometricInterpretation": "MONOCHROME2", **size}
    return data_set(**known, **({"SequenceOfUltrasoundRegions": regions} if regions else {}), **more)
