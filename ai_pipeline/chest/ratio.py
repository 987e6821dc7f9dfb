"""The cardiothoracic ratio of a frontal chest X-ray: where it is measured, and its words for the reader.

It is compared with the usual limit on PA films only: an AP film magnifies the heart.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ai_pipeline.chest.anatomy import Anatomy, AnatomyModel, Cardiothoracic, Look, Width
from ai_pipeline.chest.intended_use import projection_of
from ai_pipeline.contract import (
    BURNED_IN,
    Code,
    Measurement,
    QualityNote,
    SourceImage,
)
from ai_pipeline.images.coordinates import Pose
from ai_pipeline.images.header import is_calibrated, radiograph_spacing
from ai_pipeline.repeatability import repeatability

MODEL: Final = "chest-anatomy-unet"
NOTE: Final = "cardiothoracic ratio"
EFFUSION: Final = "Effusion"
"""What hides the heart's border: on films of another hospital its fluid was outlined as heart."""
EFFUSION_NOTE: Final = (
    "may be too large: a pleural effusion is possible. Fluid beside the heart is taken for heart: check the "
    "ends of the heart's line."
)
CARDIOMEGALY: Final = "Cardiomegaly"
LIMIT: Final = 0.5
"""Above it a heart on a PA film is usually called large (C. Danzer, Am J Med Sci 1919)."""

HEART_ENLARGED: Final = Code("HEARTENLARGED", BURNED_IN.scheme, "Heart enlarged")
"""Call of a ratio by which a reader would surely say so too."""
# Private: LOINC has those of fetuses only.
CARDIOTHORACIC_RATIO: Final = Code("CARDIOTHORACIC", BURNED_IN.scheme, "Cardiothoracic ratio")
RATIO_UNIT: Final = Code("{ratio}", "UCUM", "ratio")  # PS3.16 CID 7181
WIDTH: Final = Code("103355008", "SCT", "Width")
MILLIMETRES: Final = Code("mm", "UCUM", "mm")
PIXELS: Final = Code("{pixels}", "UCUM", "pixels")
HEART: Final = Code("80891009", "SCT", "Heart")  # PS3.16 CID 4031
THORAX: Final = Code("816094009", "SCT", "Chest")  # PS3.16 CID 4031


class Projections(StrEnum):
    """The option that says on which images the cardiothoracic ratio is measured: PA films, all frontal films,
    or none.
    """

    PA = "PA"
    ALL = "all"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Ratio:
    """The cardiothoracic ratio of one image. ``measurements``: empty, or two widths and their ratio;
    ``notes`` on them; ``judges_size``: whether the ratio says if the heart is enlarged (PA films only);
    ``missed``: why a ratio that the film should have is not given, "" if none is missing.
    """

    measurements: tuple[Measurement, ...] = ()
    notes: tuple[QualityNote, ...] = ()
    judges_size: bool = False
    """Whether the ratio says how large the heart is: of a PA film, compared with the limit."""
    missed: str = ""
    """Why a ratio that the film should have is not given, as a sentence."""


def measure(
    image: SourceImage,
    anatomy: Anatomy,
    pose: Pose,
    model: AnatomyModel,
    wanted: Projections,
    *,
    effusion: bool = False,
    projection: str | None = None,
    cut_off: Sequence[str] = (),
    look: Look | None = None,
) -> Ratio:
    """Measure heart width, thoracic width and their ratio in ``image``, whose outlines are ``anatomy``.

    ``pose``: how the image is rotated and mirrored. ``model``: the outline model; ``wanted``: of films in
    which projections the ratio is wanted. ``effusion``: whether an effusion is possible; then statement and
    note warn the reader. ``projection``: the View Position to use in place of the header's, if a stamp states
    another one. ``cut_off``: parts of the chest outside the picture, without which a width is too small.
    ``look``: what the picture shows of the heart's border, and of the breath. Widths are in millimetres where
    the header gives the pixel spacing, else in pixels.
    """
    projection = projection_of(image.header) if projection is None else projection
    if wanted is Projections.OFF:
        return Ratio()
    if wanted is Projections.PA and projection != "PA":
        return Ratio(notes=(_note(image, f"not measured: {_projection(projection)}"),))
    # What may be ill first: what is outside the picture is also said where it is not assessed.
    border = "the heart's border is hidden" if look and look.hidden else ""
    why = anatomy.fault or border or (f"{' and '.join(cut_off)} outside the picture" if cut_off else "")
    if why or anatomy.measured is None:
        return Ratio(notes=(_note(image, f"not measured: {why}"),), missed=f"No ratio: {why}.")
    statement = _statement(
        anatomy.measured.ratio, projection, model.agreement, look or Look(), effusion=effusion
    )
    measurements = _measurements(image, anatomy.measured, pose, model, statement)
    sentences = ["measured by AI between the lines drawn; a reader must check them"]
    if model.agreement:
        low, high = model.agreement
        sentences.append(f"95 % of the ratios of test films were {low:+.2f} to {high:+.2f} from a reader's")
    if projection != "PA":
        sentences.append(f"Not comparable with the limit of 0.5: {_projection(projection)}")
    if radiograph_spacing(image.header) and not is_calibrated(image.header):
        sentences.append("Widths are those on the detector, larger than in the body")
    notes = [_note(image, ". ".join(sentences))]
    if effusion:
        notes.append(QualityNote(NOTE, EFFUSION_NOTE, image.uid))
    return Ratio(measurements, tuple(notes), judges_size=projection == "PA")


def _statement(
    ratio: float, projection: str, agreement: tuple[float, float] | None, look: Look, *, effusion: bool
) -> str:
    """The short result in words, such as "Heart enlarged, cardiothoracic ratio 0.56": enlarged or not only
    where a reader would surely agree (``agreement``). ``look``: signs that the film is unusual; ``effusion``:
    whether an effusion is possible.
    """
    number = f"cardiothoracic ratio {ratio:.2f}"
    if look.shallow:
        number += ", shallow breath"
    high = agreement[1] if agreement else 0.0
    if projection != "PA":
        return f"{number.capitalize()}, not comparable with 0.5: {_projection(projection)}"
    if ratio - high > LIMIT:
        if effusion:
            return f"{number.capitalize()}, perhaps too large beside an effusion"
        return f"{HEART_ENLARGED.meaning}, {number}"
    # From the number as it is printed: a narrower word would leave two ratios of five without one.
    return f"Heart {'not enlarged' if round(ratio, 2) < LIMIT else 'size borderline'}, {number}"


def _measurements(
    image: SourceImage, found: Cardiothoracic, pose: Pose, by: AnatomyModel, statement: str
) -> tuple[Measurement, ...]:
    """The ratio and the two widths as measurements, in millimetres if the header gives the pixel spacing.
    ``by``: the outline network; ``statement``: the words of the ratio.
    """
    spacing, model = radiograph_spacing(image.header), by.ref
    # Down and across change places in an image that was turned by a quarter.
    across = spacing[0 if pose.turned in {90, 270} else 1] if spacing else None

    def width_of(name: str, site: Code, width: Width) -> Measurement:
        """The measurement of one width."""
        value, unit = (width.length * across, MILLIMETRES) if across else (width.length, PIXELS)
        return Measurement(image.uid, name, WIDTH, round(value, 1), unit, (width.points,), model, site)

    name, lines = CARDIOTHORACIC_RATIO.meaning, (found.heart.points, found.thorax.points)
    return (
        Measurement(
            image.uid,
            name,
            CARDIOTHORACIC_RATIO,
            round(found.ratio, 3),
            RATIO_UNIT,
            lines,
            model,
            THORAX,
            statement=statement,
            error=repeatability(by.agreement, 0.01) if by.agreement else None,
            call=HEART_ENLARGED if statement.startswith(HEART_ENLARGED.meaning) else None,
        ),
        width_of("Heart width", HEART, found.heart),
        width_of("Thoracic width", THORAX, found.thorax),
    )


def _projection(projection: str) -> str:
    """A clause that says which projection, not PA, the film has."""
    return f"projection {projection}, not PA" if projection else "projection not known to be PA"


def _note(image: SourceImage, text: str) -> QualityNote:
    """The note with the sentence ``text`` (without its full stop) for ``image``."""
    return QualityNote(NOTE, f"{text}.", image.uid)
