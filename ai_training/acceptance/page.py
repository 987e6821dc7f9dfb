"""The page to sign: one HTML file with figures and plots, and fields for names.

It names no patient and no file of the site's images.
"""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ai_pipeline.chest.calls.operating_points import OperatingPoint
from ai_training.evaluation.plots import reliability_plots, roc_curves
from ai_training.text import NOT_DIAGNOSTIC, interval

PAGE = "acceptance.html"
STYLE = (
    "body{font:15px/1.45 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#111}"
    "table{border-collapse:collapse;margin:.6em 0}"
    "th,td{border:1px solid #999;padding:.25em .6em;text-align:left}"
    "img{max-width:100%}code{word-break:break-all}.sign td{height:3em;min-width:14em}"
    "@media print{h2{break-after:avoid}table,img{break-inside:avoid}}"
)


def write_page(folder: Path, figures: Mapping[str, Any]) -> Path:
    """Write ``acceptance.html`` from the figures of :func:`ai_training.acceptance.accept.accept`."""
    model = figures["model"]
    title = f"Acceptance test of {model['id']} {model['version']}"
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>',
        f"<style>{STYLE}</style><h1>{escape(title)}</h1><p><strong>{NOT_DIAGNOSTIC}</strong></p>",
        *_what(figures),
        *_labels(figures),
        *_false_calls(figures),
        *_calibration(figures),
        *_gate(figures),
        *_plots(figures),
        *_limits(figures),
        *_signatures(),
    ]
    page = folder / PAGE
    page.write_text("\n".join(parts) + "\n</html>\n", encoding="utf-8")
    return page


def _what(figures: Mapping[str, Any]) -> Iterator[str]:
    model, fitted, measured = figures["model"], figures["fitted"], figures["measured"]
    rows = [
        ("Model", f"{model['id']}, version {model['version']}, from {model['from']}"),
        ("Licence", model["licence"]),
        *((f"SHA-256 of {part['file']}", part["sha256"]) for part in figures["weights"]),
        ("SHA-256 of the card", figures["card_sha256"]),
        ("Images", f"{figures['data']}, split {figures['split']}, adults"),
        ("Fitted to", f"{fitted['images']} images of {fitted['patients']} patients"),
        ("Measured on", f"{measured['images']} images of {measured['patients']} other patients"),
        ("Date", figures["date"]),
    ]
    yield from _table(("", ""), rows)
    yield "<p>All intervals are 95 %, by bootstrap over patients.</p>"


def _labels(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>How well findings are distinguished</h2>"
    yield f"<p>Mean AUC: <strong>{interval(figures.get('mean_auc'))}</strong></p>"
    rows = [
        (
            row["label"],
            str(row["positives"]),
            interval(row.get("auc")),
            "yes" if row["accepted"] else "no: hidden in results",
        )
        for row in figures["labels"]
    ]
    yield from _table(("finding", "images with it", "AUC", "shown"), rows)
    yield "<p>Shown is what the model tells better than chance in both halves (lower end above .5).</p>"


def _false_calls(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>Thresholds and false calls</h2>"
    points = figures["operating_points"]
    for point in OperatingPoint:
        found = points.get(point)
        if not found or not found.get("labels"):
            continue
        cuts = figures["thresholds"].get(point, {}).get("labels", {})
        own = {row["label"]: {"threshold": [row["threshold"], None, None]} for row in figures["labels"]}
        cuts = cuts or own  # those of the labels are the balanced ones
        yield (
            f"<h3>{point}</h3><p>Of {points['without_finding']} images without any of the model's findings "
            f"{interval(found.get('without_finding_called'))} get at least one call.</p>"
        )
        rows = [
            (
                name,
                interval(cuts.get(name, {}).get("threshold")),
                interval(row.get("sensitivity")),
                interval(row.get("specificity")),
            )
            for name, row in found["labels"].items()
        ]
        yield from _table(("finding", "threshold", "sensitivity", "specificity"), rows)
    if not figures["thresholds"]:
        yield (
            "<p>Thresholds for “specific” and “sensitive” were not chosen: they need a finding that is shown "
            "and 100 "
            "images without any of the model's findings in the first half.</p>"
        )


def _calibration(figures: Mapping[str, Any]) -> Iterator[str]:
    found = figures["calibration"]["labels"]
    if not found:
        return
    yield "<h2>Calibration</h2>"
    rows = [
        (name, interval(row.get("ece")), interval(row.get("slope")), interval(row.get("intercept")))
        for name, row in found.items()
    ]
    yield from _table(("finding", "calibration error", "slope (1 is right)", "intercept (0 is right)"), rows)


def _gate(figures: Mapping[str, Any]) -> Iterator[str]:
    gate = figures.get("gate")
    if not gate:
        return
    yield (
        f"<h2>Domain gate</h2><p>Fitted to this site's images: it refuses {interval(gate.get('refused'))} of "
        "the "
        f"other patients' images, and {gate['turned_or_inverted_refused']:.0%} of images shown turned or "
        "inverted.</p>"
    )


def _plots(figures: Mapping[str, Any]) -> Iterator[str]:
    found = figures["curves"]
    if not found:
        return
    rows = {row["label"]: row.get("auc") for row in figures["labels"]}
    yield "<h2>Curves</h2>"
    with tempfile.TemporaryDirectory() as scratch:
        drawn = {
            "ROC; circle: not absent, square: present": roc_curves(Path(scratch), "site", found, rows),
            "Reliability; bars: 95 % of the bin's rate": reliability_plots(Path(scratch), "site", found),
        }
        for text, path in drawn.items():
            data = base64.b64encode(path.read_bytes()).decode()
            yield f'<p>{escape(text)}</p><img alt="{escape(text)}" src="data:image/png;base64,{data}">'


def _limits(figures: Mapping[str, Any]) -> Iterator[str]:
    yield "<h2>What was not tested</h2><ul>"
    hidden = figures["not_in_the_data"]
    if hidden:
        yield f"<li>Not in the data, so hidden: {escape(', '.join(hidden))}.</li>"
    few = [row["label"] for row in figures["labels"] if row.get("auc") is None or row["positives"] < 15]
    if few:
        yield f"<li>Fewer than 15 images with it: {escape(', '.join(few))}.</li>"
    yield "<li>Places (boxes), children, other devices than those of these images, what nobody labelled.</li>"
    yield "<li>The labels themselves: the figures are as good as those who wrote them.</li></ul>"


def _signatures() -> Iterator[str]:
    choices = ("accepted for research use on this site", "not accepted", "accepted with conditions:")
    yield "<h2>Decision</h2>" + "".join(f"<p>☐ {choice}</p>" for choice in choices)
    rows = [(role, "", "", "") for role in ("Radiologist", "Medical physics or IT", "Responsible person")]
    yield from _table(("", "name", "date", "signature"), rows, kind=' class="sign"')


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> Iterator[str]:
    yield f"<table{kind}>"
    if any(headings):
        yield "<tr>" + "".join(f"<th>{escape(text)}</th>" for text in headings) + "</tr>"
    for row in rows:
        yield "<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>"
    yield "</table>"
