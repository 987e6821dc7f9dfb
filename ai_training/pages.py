"""docs/models.md and docs/models/*.md, written from the cards: ``python -m ai_training.pages``.

A test holds the pages equal to the cards, so no figure in them can be older than its model.
"""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_pipeline.chest import calls
from ai_pipeline.chest.calls import labels_at, points_of, predictive, words_of
from ai_pipeline.contract import Decision
from ai_pipeline.models.registry import Card
from ai_pipeline.models.registry import cards as shipped_cards
from ai_training.text import NOT_DIAGNOSTIC, interval, markdown_table, sentence

DOCS = Path(__file__).resolve().parents[1] / "docs"
CARDS = "models.md"
OPENING = """# Models

**None of these models is for diagnostic use.** `python -m ai_training.pages` writes this page and the figures
from the cards in `ai_pipeline/cards/`. Two inpainters and three autoencoders
(`ai_training/ultrasound/compared/`) have licences and limits as `ultrasound-inpaint-oci-gan` and
`ultrasound-despeckle-residual`, and figures in the [studies](studies/README.md).

A network is refused when a byte differs from the SHA-256 of its card (`dicom-node check`). A card
in a folder [of your own](models-own.md) with the id of a shipped one replaces it.

A card also has its recipe (table `training`) and figures that no page shows. [How figures are
made](training.md)
"""
PICTURES = {
    "burnin-text": ("cleaning-first-now.png", "Ultrasound as it came, and cleaned by two versions"),
    "chest-efficientnet-lite0": (
        "chest-sc-heatmap.png",
        "The lines of the cardiothoracic ratio, and the heat map of another film",
    ),
    "ovarian-efficientnet-lite0": ("ovarian-activation.png", "Frames, and where the network looks"),
    "ultrasound-despeckle-residual": ("despeckle.png", "Frame, median filter, this network"),
    "ultrasound-inpaint-oci-gan": ("inpainting-1.png", "Overlaid, filled, truth"),
    "ultrasound-marks-unet": ("ultrasound-source-sc-cleaned.png", "As it came, marks found, cleaned"),
}


@dataclass(frozen=True, slots=True)
class FiguresTable:
    """Describes a section of a documentation page: the table of a model card at ``path`` (keys with ``>``
    between), if the card has it. ``columns``: key and heading of each figure; a key may be a path, keys with
    ``+`` between share a cell. ``rows``: heading of the rows' names, "" without; None: a list of lines.
    """

    path: str
    title: str
    columns: Mapping[str, str]
    text: str = ""
    rows: str | None = None
    digits: int = 3


@dataclass(frozen=True, slots=True)
class FiguresPage:
    """Describes a documentation page with figures of the model cards that have one of the tables ``kinds``.
    ``note``: the text at its beginning.
    """

    file: str
    title: str
    kinds: tuple[str, ...]
    sections: tuple[FiguresTable, ...]
    note: str = ""


PLACED = {"T(IoU.1)": "T(IoU.1)", "mean T": "mean T of .1, .3, .5", "pointing": "pointing"}
FOUND = {"recall": "all", **{f"by_class>{name}>recall": name for name in ("text", "caliper", "marker")}}
FOUND |= {"by_class>scale>recall": "scale", "by_class>logo>recall": "logo", "precision": "precision"}
FILLED = {
    "mae": "MAE (0–255)",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "difference>psnr": "PSNR − Navier-Stokes",
}
CHEST = (
    FiguresTable(
        "metrics",
        "Test figures",
        {
            "set": "images",
            "looks": "looks at the test split with these weights",
            "mean_auc": "mean AUC of the labels with at least 15 positives",
            "mean_auc_hog+difference_to_hog": "HOG + kernel ridge with the same labels; paired difference",
            "mean_auc_age_sex_view+difference_to_age_sex_view": "age, sex and view alone; paired difference",
            "with_children>images+with_children>mean_auc": "with children: images; mean AUC",
            "within_source>cells+within_source>model": "AUCs inside one source: number; mean",
            "source_probe>mean_pooled_auc": "a classifier that sees the source alone, all pooled",
            "top3>all_labels+top3>constant": "one of the top three labels is right; of the commonest",
            "all_findings>precision+all_findings>recall": "findings at `balanced`: precision; recall",
            "pointing>model+pointing>difference": "the heat map's peak lies in the box; to one fixed map",
            "iou_at_least_0.3>model+iou_at_least_0.3>difference": "its box overlaps by .3; to one fixed box",
        },
    ),
    FiguresTable(
        "metrics>labels",
        "Labels",
        {
            "positives": "positives",
            "auc": "AUC",
        },
        rows="label",
        digits=2,
    ),
    FiguresTable(
        "metrics>sources",
        "Sources",
        {"images": "images", "patients": "patients", "mean_auc": "mean AUC", "left_out": "left out"},
        rows="source",
    ),
    FiguresTable(
        "metrics>teacher>sources",
        "Beside the teacher",
        {"images": "images", "model": "model", "teacher": "teacher", "difference": "difference"},
        "A CheXNet, on the images of its own test fold; it was trained on most other NIH patients.",
        rows="source",
    ),
    FiguresTable(
        "metrics>gate>kinds",
        "The gate",
        {
            "images": "pictures",
            "false_positives_at_95": "pass where 95 % of the adults do",
            "accepted": "accepted",
            "mended": "reoriented",
        },
        "The rest is refused.",
        rows="picture",
    ),
    FiguresTable(
        "metrics>calibration>cxr_nih/images>labels",
        "Calibration, cxr_nih/images",
        {name: name for name in ("prevalence", "slope", "intercept")},
        "Slope 1 and intercept 0 are perfect.",
        rows="label",
    ),
    FiguresTable(
        "metrics>subgroups",
        "Subgroups",
        {
            "set": "set",
            "attribute": "attribute",
            "group": "group",
            "images": "images",
            "mean_auc": "mean AUC",
        },
        "Of the labels that all groups have with at least 20 positives.",
        rows="",
    ),
    FiguresTable(
        "external>auc",
        "Elsewhere",
        {"": "AUC"},
        "A label is shown only if the lower limit of its AUC is above .5 there too.",
        rows="label",
    ),
)
CALLS = (
    FiguresTable(
        "metrics>operating_points",
        "Test images",
        {
            "images": "images",
            "patients": "adults",
            "without_finding": "of them without any finding",
            "refused": "refused, so without a call",
        },
    ),
    FiguresTable("detection", "Boxes, five folds", {"boxes": "boxes", "patients": "patients"}),
    FiguresTable("detection", "", PLACED, rows="who"),
    FiguresTable(
        "detection>labels",
        "Labels with boxes",
        {
            "label": "label",
            "boxes": "boxes",
            "mean_T": "mean T",
            "constant": "one fixed box",
            "difference": "difference",
            "passes": "box",
        },
        "A box only where the detector surely beats a fixed box and one in the middle, points no worse, and "
        "reaches half of the findings.",
        rows="",
    ),
    FiguresTable("detection>test", "Boxes, test", {"boxes": "boxes", "patients": "patients"}),
    FiguresTable("detection>test", "", PLACED, rows="who"),
)
OUTLINES = (
    FiguresTable(
        "metrics>test",
        "Test images",
        {
            "images": "images",
            "measured": "measured",
            "not_measured": "not measured",
            "dice": "Dice",
            "error": "head circumference, mean absolute error (mm)",
            "circumference>error": "… with the gate",
            "circumference>bias+circumference>limits": "… bias; limits of agreement",
            "small>images+small>dice+small>error": "heads below 120 mm: number; Dice; error",
            "ratio>error": "cardiothoracic ratio, mean absolute error (aim .010)",
            "ratio>bias+ratio>limits+ratio>worst": "… bias; limits of agreement (aim ± .030); worst",
        },
    ),
    FiguresTable("metrics>test>gate", "The gate", {"images": "pictures", "passed": "passed"}, rows="set"),
)
OVARIAN = (
    FiguresTable(
        "metrics>cross_validation",
        "Cross-validation",
        {
            "frames": "frames",
            "groups": "groups of near-duplicates",
            "seeds": "seeds",
            "macro_auc": "macro AUC of the eight classes (target .90)",
            "accuracy": "accuracy",
            "calibration>ece+calibration>brier+calibration>slope": "likeliest class: ECE; Brier; slope",
        },
        "Every frame is scored by the network that has not seen its group. There are no patient identifiers: "
        "leakage cannot be excluded. What ships was trained on all frames by the same recipe.",
    ),
    FiguresTable(
        "metrics>cross_validation>labels", "Classes", {"frames": "frames", "auc": "AUC"}, rows="class"
    ),
    FiguresTable(
        "metrics>cross_validation>binary",
        "One against the rest",
        {
            name: name.replace("_at_31", " at 31 %")
            for name in (
                *("positives", "auc", "recall", "specificity", "ppv", "npv"),
                *("ppv_at_31", "npv_at_31", "f1_at_31"),
            )
        },
        rows="task",
        digits=2,
    ),
    FiguresTable(
        "metrics>answers",
        "When it answers",
        {
            "answered": "answered",
            "right": "of these right",
            "own_class_called_absent": "own class called absent",
            "malignant_called_another_class": "malignant frames called another class; of",
            "would_be_normal>frames+would_be_normal>right": "normal likeliest (never called): frames; right",
        },
    ),
    FiguresTable("metrics>answers>by_class", "Calls", {"frames": "frames", "right": "right"}, rows="called"),
    FiguresTable("metrics>gate", "The gate", {"pictures": "pictures", "passed": "passed"}, rows="set"),
    FiguresTable(
        "metrics>outline",
        "Outline",
        {
            "frames": "frames",
            "shown": "outlines shown",
            "dice": "Dice",
            "median": "median",
            "below_half": "below .5",
            "withheld": "withheld",
        },
        "On the test split. What cleaning does to answers: [study](../studies/ovarian.md).",
    ),
)
ULTRASOUND = (
    FiguresTable(
        "metrics>drawn",
        "Marks of real test frames, drawn by hand",
        {"frames": "frames", "objects": "marks", "found_from": "found from this share of the pixels"},
    ),
    FiguresTable("metrics>drawn", "", FOUND | {"false_area": "wrongly marked"}, rows="way"),
    FiguresTable(
        "metrics>clean_test", "Clean real frames, share marked", {"area": "area"}, rows="way", digits=5
    ),
    FiguresTable(
        "metrics>legible_clinical",
        "Legible after cleaning, policy `clinical`",
        {
            "set": "pictures",
            "any_engine": "any engine still reads anything of the overlay",
            "quarantined": "withheld",
            "blacked_out": "a place blacked out",
            "widened": "a place widened",
            "pixels_changed_outside": "pixels changed outside the mask",
        },
        digits=4,
    ),
    FiguresTable(
        "metrics>legible_clinical>engines",
        "",
        {
            "legible_before": "tokens legible before",
            "left": "after",
            "at_most": "at most (share)",
            "elsewhere": "words elsewhere",
        },
        rows="engine",
        digits=4,
    ),
    FiguresTable(
        "metrics>synthetic_test",
        "Synthetic overlays, network alone",
        {
            "set": "set",
            **dict.fromkeys(("object_recall", "network>recall"), "marks found"),
            "dice": "Dice",
            **dict.fromkeys(("precision", "network>precision"), "precision"),
        },
    ),
    *(
        FiguresTable(f"metrics>test>{mask}>inside", f"Filling, {mask} mask, in the mask", FILLED)
        for mask in ("given", "detected")
    ),
    FiguresTable(
        "metrics>test>noise",
        "Speckle put on test frames",
        {
            **{f"{s}>psnr": f"PSNR at {s}" for s in ("0.1", "0.25", "0.5", "0.75")},
            "physical>psnr": "physical",
            "seconds": "seconds",
        },
        "Against frames that have speckle of their own: no others exist.",
        rows="filter",
    ),
    FiguresTable(
        "metrics>test>texture",
        "Frames as they came",
        {"enl": "ENL", "edges": "edges kept"},
        rows="filter",
        digits=2,
    ),
    FiguresTable(
        "metrics>test>heads",
        "Heads that the shipped segmenter outlines after each filter",
        {"difference": "Dice, to raw", "error": "off by (mm)", "area": "area, to true"},
        rows="filter",
        digits=4,
    ),
)
PAGES = (
    FiguresPage("chest.md", "Chest X-rays: findings", ("detection",), CHEST),
    FiguresPage(
        "chest-calls.md",
        "Chest X-rays: what calls and boxes are worth",
        ("detection",),
        CALLS,
        " `of called` and `of absent`: the share of these images that has the finding, at the prevalence of"
        " the validation images.",
    ),
    FiguresPage(
        "outlines.md",
        "Outlines of hearts, lungs and fetal heads",
        ("anatomy", "head"),
        OUTLINES,
        " The test images of chests were looked at once, those of fetal heads once for these figures and"
        " [eight times](../studies/despeckle.md#how-it-is-measured) in studies of speckle.",
    ),
    FiguresPage("ovarian.md", "Ovaries", ("metrics>cross_validation",), OVARIAN),
    FiguresPage(
        "ultrasound.md", "Ultrasound: marks, filling, speckle", ("detector", "tile", "despeckler"), ULTRASOUND
    ),
)


def pages() -> dict[str, str]:
    """The text of each documentation page, by its name below docs/, made from the shipped model cards."""
    cards = shipped_cards()
    found = {CARDS: "\n".join([OPENING, *(line for card in cards for line in card_lines(card))])}
    for page in PAGES:
        opening = f"From the [cards](../{CARDS}), where limits and licences are.{page.note}"
        lines = [f"# {page.title}", "", f"**{NOT_DIAGNOSTIC}** {opening} Intervals are 95 %.", ""]
        for card in cards:
            if about := figure_lines(page, card):
                lines += [f"## {_title(card)}", "", *about]
        found[f"models/{page.file}"] = "\n".join(lines)
    return found


def card_lines(card: Card) -> list[str]:
    """The lines of Markdown about a model card: intended use, licence, weights and limits of the model, a
    picture, and where its figures are.
    """
    drawn = PICTURES.get(card.id)
    anchor = "".join(c for c in _title(card).lower() if c.isalnum() or c in "-_ ").replace(" ", "-")
    links = [f"[{page.file[:-3]}](models/{page.file}#{anchor})" for page in PAGES if figure_lines(page, card)]
    return [
        f"## {_title(card)}",
        "",
        f"**{NOT_DIAGNOSTIC}**",
        "",
        sentence(card.task),
        "",
        *([f"![{drawn[1]}](pictures/{drawn[0]})", ""] if drawn else []),
        f"* **Intended use:** {card.intended_use}",
        f"* **Architecture:** {card.architecture}",
        f"* **Licence:** {card.licence}",
        f"* **Learned from:** {_cell(card.details, 'training>data', 3)}",
        f"* **Weights:** {', '.join(f'`{w.path.name}` ({w.role})' for w in card.weights)}",
        *([f"* **Probabilities calibrated:** {'yes' if card.calibrated else 'no'}"] if card.labels else []),
        *([f"* **Figures:** {', '.join(links)}"] if links else []),
        "",
        "Limits:",
        "",
        *(f"* {limit}" for limit in card.limits),
        "",
    ]


def figure_lines(page: FiguresPage, card: Card) -> list[str]:
    """The lines of ``page`` with the figures of ``card``; none if the model card has none of them."""
    if not any(_at(card.details, kind) for kind in page.kinds):
        return []
    extra = {"chest.md": _findings, "ovarian.md": _findings, "chest-calls.md": _points}.get(
        page.file, lambda _card: ()
    )
    return [*extra(card), *(line for section in page.sections for line in _lines(card, section))]


def _lines(card: Card, section: FiguresTable) -> Iterator[str]:
    """The lines of one section; none if the model card has no such figures."""
    found, columns = _at(card.details, section.path) or {}, section.columns
    if section.rows is None:
        facts = [(words, _cell(found, key, section.digits)) for key, words in columns.items()]
        lines = [f"* {words}: {text}" for words, text in facts if text != "–"]
        lines += [""] if lines else []
    else:
        named = list(found.items()) if isinstance(found, Mapping) else [("", row) for row in found]
        cells = [[name, *(_cell(row, key, section.digits) for key in columns)] for name, row in named]
        body = [row if section.rows else row[1:] for row in cells if set(row[1:]) != {"–"}]
        headings = (section.rows, *columns.values()) if section.rows else tuple(columns.values())
        lines = markdown_table(headings, body) if body else []
    if lines:
        yield from (f"### {section.title}", "") if section.title else ()
        yield from (section.text, "") if section.text else ()
        yield from lines


def _findings(card: Card) -> Iterator[str]:
    """The lines on the labels of a classifier: codes, thresholds, whether they are reported."""
    if card.details.get("metrics"):
        yield from ("### Findings", "")
        yield from markdown_table(
            ("label", "code", "reported", "present from", "absent below"),
            (
                [
                    label.name,
                    f"{label.code.value} {label.code.scheme} *{label.code.meaning}*",
                    *map(_text, (label.supported, label.threshold, label.absent_below)),
                ]
                for label in card.labels
            ),
        )


def _points(card: Card) -> Iterator[str]:
    """A table for each operating point that was measured: how often decisions are right, and the statements
    that they allow.
    """
    tested = card.details.get("metrics", {}).get("operating_points", {})
    rates = calls.calibrated_at(card) if tested else {}
    for point in points_of(card) if tested else ():
        labels, body = {label.name: label for label in labels_at(card, point)}, []
        for name, row in tested[point]["labels"].items():
            words = words_of(card, point, name, rates.get(name))
            may = {"suspected": words.suspected, "not found": words.not_found}
            worth = [
                interval(predictive(card, point, name, decision, rates[name])) if name in rates else ""
                for decision in (Decision.PRESENT, Decision.ABSENT)
            ]
            cuts = _text(labels[name].threshold), _text(labels[name].absent_below)
            shares = interval(row["sensitivity"], 2), interval(row["specificity"], 2)
            allowed = ", ".join(word for word, said in may.items() if said) or "not assessed"
            body.append([name, *cuts, *shares, *worth, allowed])
        alarms, seen = interval(tested[point]["without_finding_called"], 2), tested[point]["called"]
        get = f"Of the images without any finding {alarms} get one." if seen else ""
        told = f"A reader sees calls of {', '.join(seen) or 'nothing'}. {get}".strip()
        yield from (f"### `{point}`", "", told, "")
        headings = ("label", "called from", "absent below", "sensitivity", "specificity")
        yield from markdown_table((*headings, "of called", "of absent", "words"), body)


def _at(table: Any, path: str) -> Any:
    """The value at a ``path`` (keys with ``>`` between) of nested tables, None without one."""
    for key in path.split(">") if path else ():
        table = table.get(key) if isinstance(table, Mapping) else None
    return table


def _cell(row: Any, key: str, digits: int) -> str:
    """A cell of a Markdown table: the value at ``key`` of ``row``, rounded to ``digits``."""
    values = [_text(_at(row, part), digits) for part in key.split("+")]
    return "; ".join(values) if set(values) != {"–"} else "–"


def _text(value: Any, digits: int = 3) -> str:
    """A value of a model card as text, numbers with ``digits`` after the point."""
    if isinstance(value, Mapping):
        return "; ".join(f"{name} {_text(part, digits)}" for name, part in value.items()) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, list) and len(value) == 3 and all(isinstance(part, float) for part in value):
        return interval(value, digits)
    if isinstance(value, list):
        return ", ".join(_text(part, digits) for part in value)
    return "–" if value is None or value == "" else str(value)


def _title(card: Card) -> str:
    """The name of a model card with its version."""
    return f"{card.id}, version {card.version}"


if __name__ == "__main__":
    into = Path(sys.argv[1]) if len(sys.argv) > 1 else DOCS
    for name, text in pages().items():
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        (into / name).write_text(text, encoding="utf-8")
