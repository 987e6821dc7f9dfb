"""A pipeline that knows the age of every hand: it takes a third of the picture's width for it."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import numpy as np

from ai_pipeline.contract import (
    Accept,
    Code,
    CodingScheme,
    Decision,
    DerivedImage,
    Finding,
    ImageKind,
    MeasuredQuantity,
    Measurement,
    ModelRef,
    PipelineCard,
    PipelineOptions,
    PipelineResult,
    Progress,
    QualityNote,
    Refuse,
    SourceImage,
    option,
)

MODEL: Final = ModelRef("bone-age-ruler", "1.0", sha256="e" * 64, card_sha256="f" * 64)
ADVANCED: Final = Code("ADVANCED", "99BONE", "Advanced bone age")
AGE: Final = MeasuredQuantity(
    "Bone age", Code("BONEAGE", "99BONE", "Bone age"), "that of the bone age lies along the third finger"
)
MONTHS: Final = Code("mo", "UCUM", "months")
HAND: Final = Code("85562004", "SCT", "Hand")


class BoneAgeOptions(PipelineOptions):
    """Options of the pipeline."""

    atlas: Literal["plain", "fine"] = option("plain", "Atlas", "fine: for children below five years")
    """The atlas that hands are compared with."""
    margin: float = option(24.0, "Margin", "above the age by the calendar", unit="months", ge=0, le=120)
    """How much more than the age by the calendar is called advanced."""


class BoneAge:
    """Takes every picture of a hand."""

    card = PipelineCard(
        name="bone_age",
        version="1.0",
        about="Radiographs of a hand: the age of its bones.",
        intended_use="Radiographs of the left hand of children, to try the node with.",
        options=BoneAgeOptions,
        modalities=frozenset({"CR", "DX"}),
        region=HAND,
        codes=(ADVANCED,),
        outlines=(HAND,),
        measures=(AGE,),
        scheme=CodingScheme("99BONE", "Bones of the tests", "Tests"),
    )

    def warm_up(self) -> None:
        """Nothing to load."""

    def models(self) -> tuple[ModelRef, ...]:
        return (MODEL,)

    def accepts(self, images: Sequence[SourceImage], options: Mapping[str, object]) -> Accept | Refuse:
        taken = tuple(image.uid for image in images if image.header.body_part == "HAND")
        return Accept(taken) if taken else Refuse("there is no hand")

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        wanted = BoneAgeOptions.of(options)
        report(0.5, f"comparing with the {wanted.atlas} atlas")
        return PipelineResult(
            findings=tuple(_finding(image, wanted) for image in images),
            measurements=tuple(_age(image) for image in images),
            images=tuple(_outline(image) for image in images),
            quality=(QualityNote("bone age", "Bone age by a ruler, for tests.", on_faces=True),),
            models=self.models(),
        )


def _finding(image: SourceImage, wanted: BoneAgeOptions) -> Finding:
    decision = Decision.PRESENT if image.header.columns / 3 > wanted.margin else Decision.ABSENT
    return Finding("Advanced bone age", ADVANCED, None, None, decision, image.uid, MODEL, site=HAND)


def _age(image: SourceImage) -> Measurement:
    middle, bottom = image.header.columns / 2, float(image.header.rows)
    line = ((middle, 2.0), (middle, bottom - 2.0))
    months = float(image.header.columns // 3)
    return Measurement(image.uid, AGE.name, AGE.code, months, MONTHS, (line,), MODEL, HAND)


def _outline(image: SourceImage) -> DerivedImage:
    mask = np.zeros((1, image.header.rows, image.header.columns), np.uint8)
    mask[:, 4:-4, 4:-4] = 255
    what = "hand outlined by AI, not for diagnostic use"
    return DerivedImage(
        ImageKind.ORGANS, image.uid, mask, "MONOCHROME2", what, models=(MODEL,), organs=(HAND,)
    )
