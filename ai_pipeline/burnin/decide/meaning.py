"""The meaning of a burned-in text, decided by its words. Fails closed.

A text is :attr:`Meaning.IDENTITY` unless *all* of it is read with confidence and is derived by a closed
grammar from words that are not names (:mod:`ai_pipeline.burnin.decide.vocabulary`) and from values with their
labels and units (:data:`SETTINGS`, :data:`MEASUREMENTS`). There is no list of names: a word that is not
proven harmless counts as a name.

Ambiguous cases:

* A word that is also a surname (LONG, STONE, ENDO …) counts as a name if it is alone, in capitals too: a
  banner writes names in capitals. It does not count beside a noun of the body, or as the label of a value
  with its unit. A single letter beside such a word is an initial ("R LONG").
* A bare number is a mark of a ruler up to two digits, from there on only whole tens up to 400. Decimals that
  could be day and month or a time (12.03, 9.30) are no marks, unless a unit follows. Several bare numbers in
  one string may be a date. No number may have five digits; four only before Hz and g.
* Age, weight and body height are not accepted: Y and kg are no units here, centimetres have at most two
  digits, F and M are no labels.
* The label of a machine setting (:data:`LABELS`) is harmless with a value, and from four letters on without.
  One that is a name as well, or may be initials (Gain, FR), needs a unit that no person has: "FR 45" may be a
  Mrs of 45 years. So does an unknown label in a list after its mode ("2D G50/105dB/FA2").
* A maker's name is a logo only as the whole string.

The caller joins the strings of one line: of "12", "03", "67" each could be a mark of a ruler.

A site may also keep words that it lists, and dates of the examination. The rest of the same line must still
be proven harmless: in "R-CY SMITH", "SMITH" is removed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date

from ai_pipeline.burnin.decide.technical import harmless_values
from ai_pipeline.burnin.decide.vocabulary import (
    ALSO_NAMES,
    CODES,
    GIVEN_NAMES,
    JOINING,
    LABELS,
    LABELS_ALSO_NAMES,
    MAKERS,
    MAKERS_AS_WRITTEN,
    NOUNS,
    PHRASES,
    PLACES,
    PLANES,
    PRESETS,
    PROBE,
    PROBES,
    SIDE_LETTERS,
    SIDES,
    SIDES_ALSO_NAMES,
    SIDES_BEHIND,
    VIEWS,
    phrases,
)
from ai_pipeline.burnin.devices.profile import NOT_KNOWN, Screen
from ai_pipeline.contract import ImageHeader, Meaning
from ai_pipeline.images.dates import date_of

MOST_WORDS, LONGEST_WORD = 200, 24
"""Words that a site may name, and characters of one, at most."""
EXAMINED = ("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate")
"""Attributes of the header that say when an image was made."""
_MONTHS = ("jan", "feb", "ma[ry]", "apr", "ma[iy]", "jun", "jul", "aug", "sep", "o[ck]t", "nov", "de[cz]")
_TIME = r"(?<!\d)(?:[01]?\d|2[0-3])[:.][0-5]\d(?:[:.][0-5]\d)?(?: ?[ap]\.?m\.?)?(?![\d:])"


@dataclass(frozen=True, slots=True)
class Allowed:
    """Text that may stay in a cleaned picture though its words do not prove it harmless: ``words``, in
    capitals or not, ``dates``, ``settings``, which the header states, and what is known of the ``screen``. If
    there are dates, times of day are allowed as well.
    """

    words: frozenset[str] = frozenset()
    dates: frozenset[date] = frozenset()
    settings: frozenset[str] = frozenset()
    screen: Screen = field(default=NOT_KNOWN, compare=False)

    @classmethod
    def from_options(
        cls, keep_words: Sequence[str], dates: str, header: ImageHeader, screen: Screen = NOT_KNOWN
    ) -> Allowed:
        """Allow ``keep_words``, settings of the machine that the header states and, if ``dates`` is "keep",
        the dates of the examination in the header.

        No date is allowed if the patient's age is unknown or below two days: it may be the birth date.
        """
        known = frozenset(word.casefold() for word in keep_words)
        if dates != "keep" or header.age_years is None or header.age_years * 365.25 < 2:
            return cls(known, frozenset(), harmless_values(header.technical), screen)
        days = (date_of(header.attributes.get(keyword, "")) for keyword in EXAMINED)
        return cls(known, frozenset(filter(None, days)), harmless_values(header.technical), screen)

    def without_settings(self, text: str) -> str:
        """Return ``text`` without the settings that the header states; all of it if only numbers and single
        letters are left beside them, which may be an age, a date or initials.
        """
        ways = (re.escape(setting).replace(r"\ ", " ?") for setting in sorted(self.settings, key=len)[::-1])
        stated = rf"(?<![^\s(,;/])(?:{'|'.join(ways)})(?![^\s),;/])"
        parts = re.split(stated, text, flags=re.IGNORECASE) if self.settings else [text]
        if len(parts) > 1 and any(part.strip(TICKS) and not _is_harmless(part) for part in parts):
            return text  # words on both sides of a setting do not prove each other
        left = " ".join(parts)
        return text if left.strip(TICKS) and not re.search(r"[^\W\d_]{2}", left) else left

    def without(self, text: str) -> str:
        """Return ``text`` without its allowed parts. If only numbers and single letters are left beside a
        date, the text is returned whole: together with the date they may be an accession number, as in
        "20260107 45".
        """
        left = text
        for day in self.dates:
            # How consoles write a date: 2026-01-07, 07.01.2026, 1/7/26, 20260107, 07-Jan-2026, Jan 7, 2026.
            year, month, number = f"(?:{day.year}|{day.year % 100:02})", f"0?{day.month}", f"0?{day.day}"
            name = rf"{_MONTHS[day.month - 1]}[a-z]*\.?"
            orders = (
                (str(day.year), month, number),
                (number, month, year),
                (month, number, year),
                (number, name, year),
            )
            ways = [r"[-./ ]{1,2}".join(order) for order in orders]
            ways += [f"{day:%Y%m%d}", rf"{name} ?{number},? {day.year}", rf"{number}{name}{year}"]
            left = re.sub(rf"(?<![^\s(])(?:{'|'.join(ways)})(?![^\s,;)])", " ", left, flags=re.IGNORECASE)
        if self.dates:
            left = re.sub(_TIME, " ", left, flags=re.IGNORECASE)
        if left != text and left.strip() and not re.search(r"[^\W\d_]{2}", left):
            return text
        return " ".join(word for word in left.split() if word.strip(",;:()[]").casefold() not in self.words)


NOTHING_MORE = Allowed()


LEAST_CONFIDENCE = 0.85
"""Mean confidence of the recogniser from which its reading can prove a text harmless."""
LEAST_OF_SETTING, SETTING_CHARACTERS = 0.75, 4
"""The same of a machine setting with so many letters and digits: its keyword, value and unit leave no room
for a name, and on small pictures they are read less surely."""
LONGEST = 120
"""Characters of a text that can be harmless, at most."""

_NUMBER = r"\d{1,3}(?:[.,]\d{1,3})?"
_CM = r"\d{1,2}(?:[.,]\d{1,3})?"  # a body height has three digits
_INDEX = r"(?:\d|10)[.,]\d{1,2}"
_DECIMAL = r"\d{1,2}[.,]\d{1,3}"
_UNIT = r"(?:mm(?: ?[23])?|ml|cc|cm(?: ?[23])|[cm]m?/s(?:ec)?|mmhg|bpm|ms(?:ec)?|s(?:ec)?|deg|°)"
_VALUE = rf"[-+~=<>]? ?(?:{_CM} ?cm|{_NUMBER} ?{_UNIT})"
_WHICH = r"(?:[#+×x*] ?)?(?:[1-9] )?(?:[+×x*] ?)?"  # of several calipers: "1 D", "+ Dist", "2 x"

LENGTH_LABELS = (
    "d|l|w|h|a|b|c|t|ap|tr|cc|si|ml|dist|distance|diam|diameter|length|width|height|depth|wid|hgt|"
    "bpd|hc|ac|fl|ofd|hl|crl|nt|nb|cm|cist mag|cisterna magna|tcd|cer|apd|aptd|ttd|gs|gsd|msd|ys|bod|tib|"
    "fib|rad|uln|vp|afi|mvp|"
    "ssl|ksl|bip|fod|dbp|lcc|lcn|ccn|lcf|vtd|dap|dtc|dot|cerv|atrium|"
    "cl|cx|cx l|endo|et|em|imt|avg|max|min|mean|perim|circ|ellipse|skin|ssd|dsd|svd"
)
"""Labels of lengths, circumferences and depths, as a regular expression in lower case."""
LENGTH_LABELS_ELSEWHERE = (
    "距离|长度|长径|宽度|高度|深度|厚度|直径|横径|前后径|双顶径|股骨长|"
    "distancia|longitud|largo|ancho|alto|diámetro|diametro|distância|comprimento|largura|altura|diâmetro|"
    "longueur|largeur|hauteur|diamètre|abstand|länge|breite|höhe|durchm|durchmesser"
)
"""The same in other languages; as they are words, and body heights are written so, they are no labels of
anything else."""
_OTHER_LABELS = (
    "vol|volume|bladder vol|pre vol|post vol|area|psv|edv|mdv|tamax|tamean|tamv|ps|md|vel|velocity|vmax|"
    "vmean|v|pg|max pg|mean pg|vti|hr|fhr|ef|fs|sv|co|slope|acc|at|pht|angle|time|ratio|stenosis|residual"
)
_HEART = (
    r"(?:(?:asc|desc|prox|sinus|abd) )?ao(?: root| arch| sinus)?|l[av]|r[av]|lvot|rvot|ivc|mpa|rpa|lpa|"
    r"lv ?id ?[ds]?|iv ?s ?[ds]|lv ?pw ?[ds]?|(?:mv|av|tv|pv|mr|ar|tr|pr)(?: [ea])?"
)
"""Structures that an echocardiogram measures; they count with a value and its unit, or as an index."""
_WHAT = r"diam|dim|vel|vmax|max pg|mean pg|vti|area|vol|length|thick"

MEASUREMENTS = (
    rf"{_WHICH}(?:(?:{LENGTH_LABELS}|{_OTHER_LABELS}) ?(?:[1-9] )?)?{_VALUE}",
    rf"{_WHICH}(?:{_OTHER_LABELS}) ?(?:[1-9] )?[-+~=<>]? ?{_NUMBER} ?%",  # alone they are a setting's
    rf"{_WHICH}(?:{LENGTH_LABELS_ELSEWHERE}) ?(?:[1-9] )?"
    r"(?:[12]?\d(?:[.,]\d{1,3})? ?cm|\d{1,3}(?:[.,]\d{1,2})? ?mm)",
    rf"(?:头围|腹围|周长) ?{_CM} ?cm|(?:面积|área|aire|fläche) ?{_NUMBER} ?[cm]m ?2",
    rf"(?:体积|容积|volumen|volume) ?(?:[a-d] )?{_NUMBER} ?(?:ml|cc|cm ?3)",
    rf"(?:速度|velocidad|vitesse) ?{_NUMBER} ?[cm]m?/s",
    rf"{_WHICH}{_DECIMAL}(?: ?[x×*] ?{_DECIMAL}){{1,2}} ?[cm]m",
    rf"{_WHICH}(?:ri|r1|pi|s/d|d/s|ci|hc/ac|fl/ac|fl/bpd|fl/hc|a/b|cpr|ica/cca) ?{_DECIMAL}",
    rf"{_WHICH}(?:{_HEART}) ?(?:(?:{_WHAT}) ?)?(?:{_CM} ?cm|{_NUMBER} ?"
    r"(?:mm(?: ?[23])?|cm ?[23]|ml|[cm]m?/s(?:ec)?|mmhg|ms(?:ec)?))",
    rf"{_WHICH}(?:{_HEART}) (?:index(?: {_DECIMAL})?|{_WHAT})|index {_DECIMAL}",
    rf"{_WHICH}efw ?\d{{2,4}} ?g",
    r"(?:clinical |us |lvs |lmp |edd )?(?:ga|ma|aua|cua)(?: ?\(?(?:lmp|edd|us|aua|clin)\)?)?"
    r" ?\d{1,2} ?w ?\d ?d",
    r"(?:(?:lt|rt|left|right) )?(?:ut|umb|mca|dv)-(?:ps|ed|s/d|d/s|pi|ri|md|tamax|tamean|hr)"
    rf"(?: {_NUMBER} ?(?:[cm]m?/s|bpm)?)?",
    r"(?:ga|aua|cua|us ga|cga|dga|ega)? ?\d{1,2} ?wk?s? ?[0-6] ?d",
)
"""Values with their labels and units, as regular expressions on :func:`spaced` text, letters of any case."""


LABEL, LABEL_ALSO_NAME = "\N{CURRENCY SIGN}", "\N{SECTION SIGN}"
"""What :func:`labelled` writes for the label of a setting, and for one that is a name as well."""
_SIGNS = {
    way.casefold(): sign
    for labels, sign in ((LABELS_ALSO_NAMES, LABEL_ALSO_NAME), (LABELS, LABEL))
    for label in labels
    for way in (label, label.replace(" ", ""), re.sub(r"(?<=\d)(?=[A-Z])", " ", label))
}


def labelled(text: str) -> str:
    """Return :func:`spaced` text with a sign in place of each label of a setting; the words of a label may be
    stuck together.
    """
    tokens, found = text.split(), []
    while tokens:
        # Words of a label, at most.
        ways = (
            (_SIGNS.get(" ".join(tokens[:words]).casefold().rstrip(".+")), words) for words in (4, 3, 2, 1)
        )
        sign, words = next((way for way in ways if way[0]), (tokens[0], 1))
        found.append(sign)
        tokens = tokens[words:]
    return " ".join(filter(None, found))


_AMOUNT = (
    rf"(?:[-+<]? ?(?:{_NUMBER} ?(?:db|%|fps|[km]?hz|°|deg|[cm]m|[cm]?m/s|ms|m?w(?:/cm ?2)?|x)|\d{{4}} ?hz)|"
    rf"{_DECIMAL} ?[-/] ?{_DECIMAL} ?mhz)"
)
_UNITS = "(?:db|%|[km]?hz|[cm]m|°)"
_PART = (
    rf"(?:(?:[a-z]{{1,3}}|[¤§]) )?(?:{_AMOUNT}|[-+]?\d{{1,3}}(?:[.,]\d{{1,2}})?)|"
    r"(?:[¤§]|frq|har|thi)(?: (?:gen|pen|res|low|mid|high)\.?)?"
)
_SETTING_OF_LABEL = re.compile(
    r"(?:[1-9] )?"  # the number of a key: "4 Gray Map 5"
    r"(?:§ )?¤(?: [§¤])?"
    rf"(?: (?:{_AMOUNT}|[-+]? ?(?:\d{{1,3}}(?:[.,]\d)?|0[.,]\d\d)|"
    r"(?:[a-z]|\d)(?: ?/ ?(?:[a-z]|1?\d)){1,3}|[a-z](?: \d)?|"
    r"(?:h ?)?(?:gen|pen|res)|(?:low|mid|med|high) ?[v\d]?|max|min|on|off|auto|none|norm|normal|std|"
    r"soft|hard|fast|slow|full|hoch|mittel|niedrig|alt[ao]|medi[ao]|bass[ao]|baj[ao]|baix[ao]|haute?|moyen|"
    r"bas|faible|forte?))?|"
    # No newborn is shorter than 30 cm.
    rf"(?!.* [3-9]\d(?:[.,]\d+)? ?cm$)(?:§|[a-hkln-vxz]) {_AMOUNT}(?: ?/ ?[a-z] {_AMOUNT})?|"
    r"(?:[¤§cdgp] \d{1,3}(?:[.,]\d)?(?: ?/ ?| |$)){3,6}|"
    # A list after its mode, or with two units: "2D G50/105dB/FA2/P95/HAR/FSI 1", "B161°/V120°/5.0cm".
    r"(?:(?:[234] d|c|pw|cw|pd|m|tdi|sc|e|b|cf|cfm|¤|§)(?: /| ) ?(?=[a-z¤§])"
    rf"(?=(?:.*?(?:\b[a-z]{{1,3}}|[¤§]) \d|.*?\d ?{_UNITS}){{2}})|"
    rf"(?=(?:.*?\d ?{_UNITS}){{2}}))(?:{_PART})(?: ?[/@~] ?(?:{_PART})){{2,9}}"
)
"""A machine setting in small letters, by its label (:data:`LABELS`): with any value, or of four letters; by a
label that is a name as well (:data:`LABELS_ALSO_NAMES`), with a unit or among three in a row."""

SETTINGS = (
    rf"(?:\d{{1,3}} ?(?:k?hz|fps) ?/ ?\d{{1,2}}[.,]\d|{_CM} ?cm ?/ ?\d[.,]\d)",
    r"(?-i:M) [34](?: (?-i:M) [34])?|map ?[a-h] ?/ ?st ?\d|fa \d{1,2}|th \d{1,3}",
    r"q(?:ual(?:ity)?)? (?:high|mid|norm|max) ?\d?|quality low|f ?# ?\d{1,3}|sos 1[45]\d\d|p 100|"
    r"w[lw] \d{1,4} w[lw] \d{1,4}|h[a-z] p \d[.,]\d{2} ?- ?\d[.,]\d{2}|[-*+]{1,4} ?(?:bpm|k?hz|[cm]m(?:/s)?)",
    # Frames of a loop, not a day and a month; the last one also as it is read after its slider: "138/38".
    r"(?:1[3-9]|[2-9]\d) ?/ ?(?:3[2-9]|[4-9]\d)|"
    r"[-\[|1]{0,2} ?(?P<both>1[3-9]|[2-9]\d|[1-9]\d\d|\d{1,2}[.,]\d) ?/ ?(?P=both)",
    rf"f ?{_DECIMAL} ?[-~] ?{_DECIMAL}(?: ?mhz)?",
    rf"m ?(?:[il|] ?|1 ){_INDEX}",  # no "M 12.03"
    rf"t ?(?:[il|] ?|1 )[sbc]? ?<? ?{_INDEX}",
    r"a 0=\d{1,3} ?%",
    r"(?:g|gn|gain|gen gain|cf gain) [-+]?\d{1,3}(?:[.,]\d)?|dr [-+]?\d{1,3}|(?:dyn|comp) \d{2,3}",
    rf"(?:frq (?:gen|pen|res|har)\.?|f|h)? ?{_CM} ?mhz",
    rf"(?:frq|freq|fh|prf) {_DECIMAL}|p_[hml]|(?:fr|wf|sv|ip)_\d{{1,3}}(?:[.,]\d)?(?: ?(?:hz|mm))?",
    r"(?-i:F?HR|BPM) \d{2,3}",  # "Hr" is a title in German
    r"(?:fps|f/r) \d{1,3}(?:[.,]\d)?|fr rate surv",
    r"\d{2,3} ?db ?/ ?c ?\d|\d{1,3} ?hz ?[/12zl|]|sr[i1] ?[i1]{2}",
    r"\d{1,4}(?:[.,]\d{1,2})? ?k?hz|filter \d{1,4}(?:[.,]\d{1,2})? ?k?hz",
    r"(?:wf|filter|pwr|power) (?:low|med|high|max|off|on)",
    rf"[-+]? ?{_NUMBER} ?(?:db|%|fps|[cm]m[il1]s)",  # the slash of "-6cm/s" is read as a letter
    r"(?:[cd]g \d{1,2} )?prf \d{1,2}[.,]\d{1,2} ?k|filter \d{1,4}|proc \d(?: ?/ ?[\da-e]){2,4}",
    r"(?=.*[-+a-z])\d{1,2}(?:/[-+\da-z]){4,6}|bg \d{1,2}",  # of a Hitachi: "75/+/4/5/2/A/6"
    r"(?:sri|sri ii) \d|(?:ip|pers) \d{1,2}",  # Sri is a given name, 45 an age
    r"(?:c ?\d{1,2} ?/ ?m ?(?:\d|1[0-6])|(?:ff|p) ?\d{1,2} ?/ ?e ?\d) ?\*?",  # "*": not as the preset has it
    r"sr ?[i1] ?(?:i{1,3}|[bh8]|3 ?d)? ?\d(?: ?/ ?[cg]r?[ie] ?\d)?",  # "SRI II 3/CRI 2" and its misreadings
    r"sr ?[i1] ?[i1bh8nuw]{0,3} ?(?:\d ?[/71ijt]?|o ?[/71v]) ?[cg]r[i1] \d",
    r"q[uú]al ?(?:norm|high|low|max)|(?:wmf|fr[qą]) ?(?:[l1] ?[o0] ?w|mid|high|max|norm) ?\d?",
    rf"p {_CM} ?[cm]m|p \d{{1,3}}(?:[.,]\d)? ?%|(?:z|mag|zoom) \d[.,]\d{{1,2}} ?x?",
    r"(?:routine )?[1-3](?: ?[+/] ?[1-3])?\.? ?trim(?:ester|estre)?\.?(?: ?/ ?ob)?",  # presets: "2+3.Trim."
    r"har ?- ?(?:low|mid|high|max|intermedia|intermediate|alta|media|baja)",
    r"\d{2,3} ?°? ?/ ?\d{1,3} ?hz|\d{2,3} ?° ?/ ?\d[.,]\d|\d{1,3} ?hz ?/ ?\d{1,2}(?:[.,]\d)? ?cm",
    r"h[a-z]?(?: (?:l|(?:[a-z] )?p ?[i1l]))? \d[.,]\d{2} ?- ?\d[.,]\d{2}",  # harmonics: "HM PI 6.80 - 2.80"
    r"h[a-z]? (?:[a-z] )?p ?[i1l] 1\d[.,][6-9]\d ?- ?\d[.,]\d{2}",  # 12.03 is a day, 11.30 a time
    rf"i ?m ?{_INDEX}|i ?t ?[msc]? ?{_INDEX}",  # mechanical and thermal index in French; Ito is a name
    r"h?(?:p[eé]n|g[eé]n|r[eé]s)(?: ?- ?h?(?:p[eé]n|g[eé]n|r[eé]s))+",
    r"prc \d{1,2}(?: ?/ ?\d{1,2}){2}|prc \d{1,2}-\d{1,2}-[lmh]",
    r"pr[sc] \d|pst \d|res ?- ?[a-c]|xv ?c? ?\d|tac ?\d",
    r"\d{2,3}(?:[.,]\d)? ?kvp?|\d{1,3}(?:[.,]\d{1,2})? ?mas",  # exposure of an X-ray
    r"d[vu]a \d{1,3} ?%|t \d[.,]\d|\d[.,]\d \d[.,]\d|q ?scan(?: \d\d)?",
    r"[st] \d ?/ ?(?:[-+] ?\d(?: ?/ ?\d){1,2}|\d(?: ?/ ?\d){2})|δ \d",  # of an Acuson: "S1/+1/2/4", "Δ=2"
    r"(?:\d{4} \d{1,2}[.,]\d )?r \d{1,2}(?:[.,]\d)? g \d{1,3} c \d{1,2}(?: a \d{1,2})?",  # of an Aloka
    # The last frame of a loop: "No.84/84", "977:977 (19.0:19.0 s)".
    r"(?P<frame>\d{3}):(?P=frame)|no (?P<last>\d{1,3}) ?/ ?(?P=last)|\d{1,3}[.,]\d:\d{1,3}[.,]\d s",
    rf"{_DECIMAL} ?[-/] ?{_DECIMAL} ?mhz",
    rf"m[i1l|] ?m {_INDEX}|m ?dr \d{{2,3}}|m ?ft \d[.,]\d",
)
"""Acoustic output and machine settings, in the same form."""
MODES = phrases("""
    Gen, GEN, Pen, PEN, bpm, 2 D, 3 D, 4 D, PW, CW, CF, CFM, CPA, CDI, PDI, TDI, THI, 2 D/THI, SRI, CRI, XRES,
    SonoCT, BMODE, B-MODE, M-MODE, FROZEN, DUPLEX, TRIPLEX, COLOR DOPPLER, POWER DOPPLER, HGen, HRes, HPen,
    HGén, HRés, HPén, Res, Frame Rate, Transducer,
    Preset, Frequency, Persistence, Dynamic Range, Compression, Mechanical Index,
    Thermal Index, /, PWR, FOV, ROI, PRF, WF, MI, TIS, TIB, TIC, TIs, TIb, TIc, FR, DR, Gn, AO%, Frq, MHz,
    Hz, dB, cm, mm, cm/s, m/s, fps
""")
"""Words of the same class without a value, exactly so written. CHI, LIVE and HAR are given names."""
QUANTITIES = phrases("""
    Cist Mag, Index, Dist, DIST, Distance, Diam, Diameter, Vol, VOL, Volume, Area, AREA, Circ, CIRC, PSV,
    EDV, RI, S/D, Calip, Caliper, Calipers, Results, BPD, OFD, HC, FL, CRL, EFW, GA, AUA, AFI, +, ×, x, *
""")
CALIPER_SIGNS = "* \u00f7\u2723\u2725\u2727\u2316\u229e\ue000\uf0a4"
"""What a recogniser makes of a drawn caliper beside its measurement."""
TICKS = " |\u2022\u00b7\u25c6\u25cf-\u2013\u2212\u207b"
"""What it makes of the tick beside a ruler's number: "10 •", "4.0 cm-"."""
_SINGLE_LETTERS = frozenset("ABCDGHLPRSTVW")
"""What a caliper, a mode or the mark of the probe's side may be, as whole strings; two are initials."""
_ADDRESS = re.compile(
    rf"(?!\w+ (?:long|\d{{1,2}})$)(?:(?:{'|'.join(SIDES)})"
    r"(?: ?(?:breast|brust|mamma|mama|sein|seno|pecho|乳腺|유방))?|breast|乳腺|유방)"
    r" ?(?:(?:[1-9]|1[0-2])(?:[:.][03]0)?(?: ?(?:o ?['’]? ?clock|uhr|h|点|时|시))?)?"  # by the clock
    rf"(?: ?(?:n ?[+-]? ?\d{{1,2}}(?: ?cm)?|\d{{1,2}} ?cm ?(?:fn|n)))?"
    r"(?: ?(?:rad|arad|antirad|trans|trv|tr|sag|long|lg))?|(?:feto|fetus|foetus)(?: [a-d])?",
    re.IGNORECASE,
)
"""A side with a place of the breast: by the clock, by the distance from the nipple, and by the plane. Or
which of twins: fetus A."""
SUFFIXES = frozenset({"CY", "M"})
"""What may follow an abbreviation after a hyphen: a cyst, a mass."""
_PLACE = re.compile(
    rf"[LR][OKT]|[34](?:CV|V[CTV])|(?i:{'|'.join(SIDES)}|[LR]) ?(?:[1-9]|1[0-2]|- ?(?:{'|'.join(SUFFIXES)}))"
)
"""A side with an organ's letter, an hour, a cyst or a mass, and views of a fetal heart."""
_MEASUREMENT = re.compile("|".join(MEASUREMENTS), re.IGNORECASE)
_SETTING = re.compile("|".join(SETTINGS), re.IGNORECASE)
_HARMLESS = NOUNS | VIEWS | SIDES
_SIDE = "|".join(sorted(SIDES | {"TRV", "SAG", "TRANS"}))
_STUCK = re.compile(
    rf"\b(?={_SIDE})(?!(?:{'|'.join(NOUNS)})\b)({_SIDE})"
    rf"(?=(?:{'|'.join(noun for noun in NOUNS if len(noun) >= 5)})\b)",
    re.IGNORECASE,
)
"""A word that is stuck to a noun, as in "RTOVARY"."""


_MISREAD = {
    pair[0]: pair[1:]
    for pair in phrases("""
        1/lI, 7/1, I1/, l1/I, t1, /1, j/, J/, il, S35, s5, 5S, 83, 38, B38, E3F, em, RP, 6o, 0o, O03, o0, Q0,
        GC6, Z2, z2, 2z, hm, fr, nm, ?7, UI, ul
    """)
}
"""What small letters and digits are read as, and what they may be."""


def may_be_setting(text: str) -> bool:
    """Whether a text is a machine setting of at least four characters, if up to two of them were misread
    (:data:`_MISREAD`). It must have a digit, or a label that is no name. Of 64,000 invented names (of the
    library Faker 40) none is taken for a setting.
    """
    # No date is a setting, and no short word with an age.
    if re.search(r"\d\d?[/.-]\d\d?[/.-]\d\d|^[^\W\d_]{2,4} ?\d{1,3}(?:[.,]\d)?$", text) or not re.search(
        r"(?i)\d|^sr[i1]|^qual|^wmf", text
    ):
        return False
    ways = {" ".join(unicodedata.normalize("NFKC", text).split()).strip(CALIPER_SIGNS).rstrip(TICKS)[:24]}
    for _ in range(2):
        ways |= {
            way[:place] + other + way[place + 1 :]
            for way in ways
            for place, letter in enumerate(way)
            for other in _MISREAD.get(letter, "")
        }
    return any(sum(map(str.isalnum, way)) >= 4 and _is_setting(spaced(way)) for way in ways)


def names_a_view(text: str) -> bool:
    """Whether a text holds a word for a side, a view or an organ, whatever else it says."""
    return not _HARMLESS.isdisjoint(re.split(r"[\W\d_]+", text.upper()))


def names_a_place(text: str) -> bool:
    """Whether a text that stands alone over the image, or beside it, names a side, a plane or a part of the
    body or of a fetus. Elsewhere "R-M" and "AV" could be initials, "RT 9" a room and "LT HAND" a name.
    """
    if _PLACE.fullmatch(text.strip()):
        return True
    words = re.split(r"[ /&+.-]+", re.sub(r" ?#?[1-9]$", "", spaced(text)).strip(" .#"))
    upper = [word.upper() for word in words]
    sure = [word in CODES or big in _HARMLESS for word, big in zip(words, upper, strict=True)]
    # Fewer letters may be an abbreviation or initials.
    parts = [
        good or ((word == big or len(word) > 3) and big in PLACES | ALSO_NAMES)
        for good, word, big in zip(sure, words, upper, strict=True)
    ]
    if len(words) == 1:
        return parts[0] and (sure[0] or upper[0] in PLACES or len(words[0]) > 3)
    more = SIDES_ALSO_NAMES | (GIVEN_NAMES if any(sure) else frozenset())
    return not more.issuperset(upper) and all(
        part or big in more or (place and big in SIDES_BEHIND)
        for place, (part, big) in enumerate(zip(parts, upper, strict=True))
    )


def meaning_of(text: str, confidence: float, allowed: Allowed = NOTHING_MORE) -> Meaning:
    """Classify a text by its words: IDENTITY unless every word is known to be harmless.

    ``confidence``: how sure the text recogniser is, 0 to 1.
    """
    if not confidence >= LEAST_OF_SETTING or not 0 < len(text) <= LONGEST:
        return Meaning.IDENTITY
    line = " ".join(unicodedata.normalize("NFKC", text).split()).strip(CALIPER_SIGNS).rstrip(TICKS)
    more = allowed.without_settings(line)
    rest = allowed.without(more)
    if line and not rest.strip(TICKS):
        meaning = Meaning.ORIENTATION if more.strip(TICKS) else Meaning.ACOUSTIC
    else:
        meaning = _meaning_of_line(rest)
    surely = confidence >= LEAST_CONFIDENCE
    setting = meaning is Meaning.ACOUSTIC and sum(map(str.isalnum, line)) >= SETTING_CHARACTERS
    return meaning if surely or setting else Meaning.IDENTITY


def _is_harmless(part: str) -> bool:
    """Whether a part of a line is known to be harmless by itself, or a unit."""
    words = part.strip(TICKS + " ,;/")
    is_unit = re.fullmatch(_UNITS, words, re.IGNORECASE) is not None
    return not words or is_unit or _meaning_of_line(words) is not Meaning.IDENTITY


def _meaning_of_line(line: str) -> Meaning:
    """The meaning of a text in one line; IDENTITY unless all of it is known to be harmless."""
    maker = line.strip(TICKS + "'\"`\u00b4\u2018\u2019")  # what a logo's drawing is read as
    if maker in MAKERS | MAKERS_AS_WRITTEN or (" " in maker and maker.upper() in MAKERS):
        return Meaning.LOGO
    # A preset may stand after its transducer: "C5-1/FETAL HEART".
    if line.upper() in PRESETS or {*re.split(" |/(?=[A-Z])", line.upper(), maxsplit=1)} <= PROBES | PRESETS:
        return Meaning.ACOUSTIC
    if _RULER_MARK.fullmatch(line):
        return Meaning.SCALE
    if line in _SINGLE_LETTERS - SIDE_LETTERS or re.fullmatch("[ABCDELPX][1-9]:?", line):  # of a caliper
        return Meaning.MEASUREMENT
    # An echo's edge before the first letter; one setting after another: "Qscan:80 /MDR:50".
    # A mode in brackets leads a list of settings: "[2D]G50/105dB/FA2".
    line = re.sub(r"\[(\w{1,3}?)(?:\]|J|(?=/))/?", r"\1 ", line.replace("'", " "))
    line = re.sub(rf"^({PROBE.pattern})/(?=[A-Z])", r"\1 ", line)  # of a transducer and its preset
    if line.count("/") < 3:  # no list
        line = re.sub(r"(?i)^/(?=prf)|(?<=\d) ?/(?=[a-z]{2,} \d)", " ", spaced(line))
    return _proven(list(filter(None, (token.strip(",;:|()[]") for token in spaced(line).split()))))


def spaced(text: str) -> str:
    """Return the text with the blanks that rapidocr loses: between letters and digits, and none twice.
    "1D2.31cm" and "1.D.2.31cm" become "1 D 2.31 cm", "HC:245.3mm" becomes "HC 245.3 mm".
    """
    line = unicodedata.normalize("NFKC", text).replace("\N{MINUS SIGN}", "-").replace("\N{EN DASH}", "-")
    line = re.sub(
        r"\b(FR|WF|SV|IP)(?:: ?(?=\d))|\b(P):(?=[HML]\b)", r"\1\2_", line
    )  # no title and no initials have a colon
    line = re.sub(r"(?:(?<=[^\W\d_])\.?|(?<=[+%]))\s*[:;=]\s*|(?<=[^\W\d_]\d):\s*(?=\d+[.,]\d)", " ", line)
    return " ".join(
        re.sub(
            r"(?<![\d.][1-9])(?<=[1-9])\.(?=[^\W\d_])|(?<=[^\W\d_])\.?(?=[-+]?\d)|(?<=\d)(?=[^\W\d_])",
            " ",
            line,
        ).split()
    )


def _proven(tokens: Sequence[str]) -> Meaning:
    """The meaning of a line of words ``tokens``, if it can be cut into items (:func:`_item`) that are all
    known to be harmless; else IDENTITY.
    """
    ways: list[frozenset[Meaning] | None] = [frozenset(), *([None] * len(tokens))]
    for end in range(1, len(tokens) + 1):
        # Tokens of one item of the grammar, at most.
        for start in range(max(0, end - 14), end):
            before = ways[start]
            if before is not None and (item := _item(tokens[start:end])) is not None:
                ways[end] = before | {item}
                break
    found = ways[-1]
    if not found:
        return Meaning.IDENTITY
    # A mixed line counts as what a reader needs most.
    return next(
        meaning
        for meaning in (Meaning.MEASUREMENT, Meaning.ORIENTATION, Meaning.ACOUSTIC)
        if meaning in found
    )


def _item(tokens: Sequence[str]) -> Meaning | None:
    """The meaning of words that together form one known harmless item, such as a measured value or a
    machine's setting; None if they form no such item.
    """
    text = " ".join(tokens)
    if text in QUANTITIES or _MEASUREMENT.fullmatch(text):
        return Meaning.MEASUREMENT
    probe = text.replace(" ", "").upper()
    if text.lstrip("-") in MODES or probe in PROBES or PROBE.fullmatch(probe) or _is_setting(text):
        return Meaning.ACOUSTIC
    return Meaning.ORIENTATION if _ADDRESS.fullmatch(text) or _is_orientation(tokens) else None


def _is_setting(text: str) -> bool:
    """Whether a text is a machine setting in a form of its own, or by its label."""
    return bool(
        _SETTING.fullmatch(text)
        or (
            len(text) >= 4
            # Three letters may be initials, "DMR 123" an ID.
            and not re.fullmatch(r"(?:[1-9] )?\w{3} (?!100)\d{3}", text)
            and _SETTING_OF_LABEL.fullmatch(labelled(text).casefold())
        )
    )


def _is_orientation(tokens: Sequence[str]) -> bool:
    """Whether these words name anatomy and view, and prove each other harmless."""
    if len(tokens) > 1 and re.fullmatch("#?[1-9]", tokens[-1]) and tokens[-2].upper() in NOUNS:
        return _is_orientation(tokens[:-1])  # "CYST 2"
    # By a function: "re" hashes the whole pattern, with all its words, to look up what a text stands for.
    apart = _STUCK.sub(lambda found: f"{found[1]}/", " ".join(token.rstrip(".") for token in tokens))
    words = list(filter(None, re.split(r"[ /&+-]", apart)))
    upper = [word.upper() for word in words]
    if not words or " ".join(upper) in PHRASES:
        return bool(words)
    sure = [big in _HARMLESS or word in CODES for word, big in zip(words, upper, strict=True)]
    allowed = SIDE_LETTERS | (ALSO_NAMES | JOINING if {*upper} & NOUNS or {*words} & PLANES else frozenset())
    allowed |= SUFFIXES if any(sure) and "-" in tokens[-1] else frozenset()
    return all(good or big in allowed for good, big in zip(sure, upper, strict=True)) and (
        any(sure) or (len(words) == 1 and words[0] in SIDE_LETTERS)
    )


_RULER_MARK = re.compile(
    r"[-+\N{MINUS SIGN}]? ?(?:[1-8]?\d|90|[1-3]\d0|400)|[-+\N{MINUS SIGN}]?[.,]\d{1,2}|"
    r"[-+\N{MINUS SIGN}] ?(?:0|[1-9]\d{0,2})[.,]\d{1,2}|[1-9][.,]\d|"
    r"(?:0|3[2-9]|[4-9]\d|[1-9]\d\d)[.,]\d{1,2}|"  # below: no day and month, and no time
    r"(?:2[5-9]|3[01])[.,](?:00?|1[3-9]|[2-9]\d)|(?:[1-9]|1\d|2[0-4])[.,](?:0|[6-9]\d)"
)
"""A number of a ruler: no part of a date or a time, no age above 89 and no identifier."""
