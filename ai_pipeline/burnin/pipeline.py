"""The pipeline ``ultrasound``: find burned-in annotation, return its places and the image without it.

The text itself leaves this package only as readings, which are for the node's access-controlled record.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from ai_pipeline.burnin.card import CARD, UltrasoundOptions
from ai_pipeline.burnin.cleaning import clean
from ai_pipeline.burnin.decide.meaning import Allowed
from ai_pipeline.burnin.devices.rules import device_rules, screen_of
from ai_pipeline.burnin.find.annotation import ULTRASOUND, AnnotationKind, Mark
from ai_pipeline.burnin.find.text import POSSIBLE_TEXT
from ai_pipeline.burnin.tools import Tools, cleaning_models, shared_tools
from ai_pipeline.contract import (
    BURNED_IN,
    Accept,
    Decision,
    DerivedImage,
    Finding,
    ModelRef,
    Origin,
    PipelineResult,
    Progress,
    QualityNote,
    Reading,
    Refuse,
    Region,
    SourceImage,
)
from ai_pipeline.errors import CleaningFailed
from ai_pipeline.terms import shown_term


class Ultrasound:
    """The pipeline ``ultrasound``, which removes burned-in annotation
    (:class:`ai_pipeline.contract.Pipeline`).
    """

    card = CARD

    def __init__(
        self,
        *,
        models_dir: Path | None = None,
        device_rules: Path | None = None,
        explain: Callable[[Mark], None] = lambda _mark: None,
    ) -> None:
        """``models_dir``, ``device_rules``: folders of a site's own models and device rules. ``explain`` is
        called with each mark of an image and the reason why it goes or stays; the node sets none.
        """
        self._models_dir = models_dir
        self._device_rules = device_rules
        self._explain = explain

    def warm_up(self) -> None:
        """Check and load networks and device rules.

        Raises CardError and DeviceRuleError.
        """
        device_rules(self._device_rules)
        shared_tools(self._models_dir, self._device_rules).reader.warm_up()

    def models(self) -> tuple[ModelRef, ...]:
        """All models that the pipeline may run; a result names only the models that were run."""
        return cleaning_models(self._models_dir, self._device_rules)

    def accepts(
        self, images: Sequence[SourceImage], options: Mapping[str, object] = MappingProxyType({})
    ) -> Accept | Refuse:
        """Choose images by the header alone; no pixel is decoded."""
        others = (
            {}
            if UltrasoundOptions.of(options).any_modality
            else {
                image.uid: f"modality {shown_term('Modality', image.header.modality)} is not ultrasound"
                for image in images
                if image.header.modality not in ULTRASOUND
            }
        )
        if taken := tuple(image.uid for image in images if image.uid not in others):
            return Accept(taken)
        return Refuse("; ".join(sorted(set(others.values()))) or "there is no image")

    def run(
        self, images: Sequence[SourceImage], report: Progress, options: Mapping[str, object]
    ) -> PipelineResult:
        """Clean every image. An image that cannot be cleaned is left out, with a note.

        Raises :class:`CleaningFailed` when no image can be cleaned, and PixelError when one does not decode.
        """
        began = time.perf_counter()
        wanted = UltrasoundOptions.of(options)
        tools = shared_tools(self._models_dir, self._device_rules)
        findings: list[Finding] = []
        readings: list[Reading] = []
        pictures: list[DerivedImage] = []
        notes: list[QualityNote] = []
        seconds: defaultdict[str, float] = defaultdict(float)
        failures: list[CleaningFailed] = []
        for number, image in enumerate(images):
            try:
                result = clean(
                    image,
                    lambda share, what, done=number: report((done + share) / len(images), what),
                    policy=wanted.policy,
                    allowed=Allowed.from_options(
                        wanted.keep_words,
                        wanted.dates,
                        image.header,
                        screen_of(image.header, tools.device_rules),
                    ),
                    in_doubt=wanted.in_doubt,
                    tools=tools,
                    explain=self._explain,
                )
            except CleaningFailed as failure:
                failures.append(failure)
                notes.append(
                    QualityNote(
                        "cleaning_failed",
                        f"no cleaned picture: {failure}",
                        image.uid,
                        places=failure.places,
                    )
                )
                continue
            findings += _findings(image, result.marks, tools)
            notes += result.notes
            readings += result.readings
            if wanted.clean:
                pictures += [result.image, result.mask]
            for stage, value in result.timings.items():
                seconds[stage] += value
        if failures and len(failures) == len(images):
            raise failures[0]
        seconds["total"] = time.perf_counter() - began
        return PipelineResult(
            tuple(findings),
            tuple(pictures),
            tuple(notes),
            dict(seconds),
            tools.models,
            readings=tuple(readings),
        )


def _findings(image: SourceImage, marks: tuple[Mark, ...], tools: Tools) -> list[Finding]:
    """Findings that say which annotation was removed: one for each of the largest marks, or one absent
    finding.
    """
    removed = [mark for mark in marks if mark.removed]
    if not removed:
        # Mark that the policy leaves in place was found: only what it removes is absent.
        absent = "burned-in text to remove" if marks else "burned-in text"
        return [Finding(absent, BURNED_IN, None, None, Decision.ABSENT, image.uid, tools.models[0])]
    areas = {mark: (mark.box[2] - mark.box[0]) * (mark.box[3] - mark.box[1]) for mark in removed}
    # So many are reported for an image; a note counts all of them.
    return [
        _finding(image, mark, tools) for mark in sorted(removed, key=areas.__getitem__, reverse=True)[:24]
    ]


def _finding(image: SourceImage, mark: Mark, tools: Tools) -> Finding:
    """The finding for one removed mark."""
    is_text = mark.kind in {AnnotationKind.TEXT, AnnotationKind.BANNER}
    left, top, right, bottom = map(float, mark.box)
    text_model, _, mark_model, _ = tools.models
    place = Region("box", ((left, top), (right, bottom)), Origin.TEXT if is_text else Origin.MARK)
    return Finding(
        label=f"Burned-in {mark.kind.value}",
        code=BURNED_IN,
        probability=mark.confidence,
        threshold=POSSIBLE_TEXT if is_text else tools.threshold,
        decision=Decision.PRESENT,
        source_uid=image.uid,
        model=text_model if is_text else mark_model,
        frame=mark.frame if image.header.frames > 1 else None,
        regions=(place,),
    )
