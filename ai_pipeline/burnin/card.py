"""The card of the pipeline ``ultrasound``: its description and its options."""

from collections.abc import Mapping
from typing import ClassVar, Final, Literal

from pydantic import ValidationInfo, field_validator

from ai_pipeline.burnin.decide.meaning import LONGEST_WORD, MOST_WORDS
from ai_pipeline.burnin.find.annotation import ULTRASOUND, CleaningPolicy, InDoubt
from ai_pipeline.contract import BURNED_IN, PipelineCard, PipelineOptions, option


class UltrasoundOptions(PipelineOptions):
    """Options of the pipeline ``ultrasound``, which removes burned-in annotation."""

    former: ClassVar[Mapping[str, str]] = {
        "despeckle": "leave it out: the change was too small to be worth a picture",
        "measurements": "leave it out: lengths written in an image are read by nobody now",
    }

    policy: CleaningPolicy = option(
        CleaningPolicy.CLINICAL,
        "What is removed",
        "clinical: what names the patient; research: every text and mark",
    )
    """`clinical`: what names the patient goes; measurements, calipers, body and side marks, rulers, machine
    settings and makers' logos stay where they are known for what they are, because a reader needs them. A
    line of text stays only when all of it was read and is proven harmless; what cannot be read counts as a
    name. `research`: every text and every mark goes, and everything outside the ultrasound regions."""
    in_doubt: InDoubt = option(
        InDoubt.KEEP, "What may be letters in the image", "and cannot be read: keep, box, withhold"
    )
    """`keep`, under `clinical`: in the image area only strokes of proven letters are filled, no box. What
    may be letters and cannot be read stays; the picture is listed for review with the place. So does what one
    network alone takes for letters, anywhere. `box`: such places are filled whole. `withhold`: no cleaned
    picture until a person has looked at it. Outside the image area, on plain background, whatever two
    witnesses take for letters is filled."""
    dates: Literal["remove", "keep"] = option(
        "remove", "Date of the examination", "under the policy clinical only", leaves_text=True
    )
    """`keep`, under `clinical`: the date of the examination stays where it is the Study, Series, Acquisition
    or Content Date of the header, in any usual spelling, and times of day stay; other dates go. None stays of
    a patient who is less than two days old or of unknown age: it may be the birth date. Beside it stay
    neither bare numbers nor single letters, which may be an accession number; in a rule that sends to a
    de-identified peer it is refused."""
    keep_words: tuple[str, ...] = option(
        (),
        "Words that are no names",
        "of your site, such as R-CY; L-M; under clinical only",
        leaves_text=True,
        wanted='a list of words, such as ["R-CY", "L-M"]',
    )
    """Words of your site that are no names and stay under `clinical`, such as `["R-CY", "L-M"]` (sides and
    organs that only you abbreviate so; 200 words of 24 characters at most). Not in a rule that sends to a
    de-identified peer. The rest of the line still has to be proven harmless: of "R-CY SMITH" all
    goes."""
    clean: bool = option(True, "Cleaned image and its mask")
    """Hand back the cleaned image and its mask (`cleaned`, `seg`)."""
    any_modality: bool = option(
        False, "Take other modalities too", "text only, no drawn marks", lifts="modality"
    )
    """Take images of other modalities too: text only, no drawn marks."""

    @field_validator("keep_words")
    @classmethod
    def _single_words(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        """Raise ValueError for too many or too long words, or for several words in one text."""
        if len(words) > MOST_WORDS or not all(0 < len(word) <= LONGEST_WORD for word in words):
            raise ValueError(f"must have at most {MOST_WORDS} words of 1 to {LONGEST_WORD} characters")
        if wrong := [word for word in words if len(word.split()) != 1]:
            raise ValueError(f"{wrong[0]!r} is not one word: name each word by itself")
        return words

    @field_validator("dates", "keep_words")
    @classmethod
    def _under_clinical(cls, value: object, info: ValidationInfo) -> object:
        """Raise ValueError for an option that has no effect under the policy research."""
        if info.data.get("policy") is CleaningPolicy.RESEARCH and value not in ("remove", ()):
            raise ValueError("stays under clinical only: leave it out, or take that policy")
        return value


CARD: Final = PipelineCard(
    name="ultrasound",
    version="5.5",
    about="Ultrasound: finds what is burned into the picture, and hands back a cleaned image.",
    intended_use=(
        "Ultrasound stills and cines with text burned into the pixels: it finds what may name the patient "
        "and fills it. It says nothing of the patient's health."
    ),
    options=UltrasoundOptions,
    modalities=ULTRASOUND,
    auto_for=frozenset({"US", "IVUS"}),
    codes=(BURNED_IN,),
)
