"""What a burned-in text is for: harmless only when proven, whatever stands beside it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ai_pipeline.burnin.decide.meaning import (
    LEAST_CONFIDENCE,
    LEAST_OF_SETTING,
    SETTING_CHARACTERS,
    meaning_of,
)
from ai_pipeline.burnin.decide.vocabulary import ALSO_NAMES
from ai_pipeline.contract import Meaning

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


def _words(text: str) -> list[str]:
    return text.split()


NAMES = _words("""
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
""")
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

given_dates = st.dates(date(1900, 1, 1), date(2035, 12, 31))
harmless = st.sampled_from([text for texts in HARMLESS.values() for text in texts])
names = st.sampled_from(NAMES)
cases = st.sampled_from([str, str.upper, str.lower, str.title])


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


def test_there_are_names_enough() -> None:
    assert len(set(NAMES)) >= 200


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


@settings(max_examples=250, deadline=None)
@given(
    name=names.filter(lambda name: name.upper() not in UNSAFE_LABELS),
    known=harmless,
    write=cases,
    joint=st.sampled_from([" ", "  ", ": ", ", ", "/", " - ", "\n"]),
    first=st.booleans(),
)
def test_a_name_beside_harmless_text_makes_all_of_it_identity(
    name: str, known: str, write: Callable[[str], str], joint: str, first: bool
) -> None:
    parts = (write(name), known) if first else (known, write(name))
    text = joint.join(parts)
    if name.upper() in ALSO_NAMES and meaning_of(known, 1.0) is Meaning.ORIENTATION:
        return  # "LIVER LONG": the noun says what the word is
    assert meaning_of(text, 1.0) is Meaning.IDENTITY


@settings(max_examples=250, deadline=None)
@given(day=given_dates, form=st.sampled_from(DATE_FORMATS), known=harmless | st.just(""), first=st.booleans())
@example(day=date(2000, 12, 3), form="%d.%m.", known="", first=True)
def test_a_date_or_time_is_identity_alone_and_beside_harmless_text(
    day: date, form: str, known: str, first: bool
) -> None:
    written = day.strftime(form)
    text = f"{written} {known}" if first else f"{known} {written}"
    assert meaning_of(text.strip(), 1.0) is Meaning.IDENTITY


@settings(max_examples=250, deadline=None)
@given(
    number=st.from_regex(r"[A-Z]{0,3}[-_ ]?\d{5,14}", fullmatch=True)
    | st.from_regex(r"\d{1,4}[-/.]\d{4,8}", fullmatch=True)
    | st.from_regex(r"[A-Z]{2,4}\d{3,8}[A-Z]?", fullmatch=True)
    | st.from_regex(r"\d{3} \d{2} \d{4}", fullmatch=True),
    known=harmless | st.just(""),
    first=st.booleans(),
)
def test_a_number_of_a_person_is_identity(number: str, known: str, first: bool) -> None:
    text = f"{number} {known}" if first else f"{known} {number}"
    shown = meaning_of(text.strip(), 1.0)
    setting = number[:2] in {"DR", "FR", "AO", "GN"} and len(number.strip("ADFGNOR ")) <= 3
    assert shown is Meaning.IDENTITY or setting


@settings(max_examples=150, deadline=None)
@given(text=st.text(max_size=40), confidence=st.floats(allow_nan=True))
def test_any_text_has_a_meaning_and_takes_no_time(text: str, confidence: float) -> None:
    assert meaning_of(text, confidence) in Meaning


def test_a_long_line_without_end_is_prose() -> None:
    assert meaning_of("MI 0.9 " * 40, 1.0) is Meaning.IDENTITY
