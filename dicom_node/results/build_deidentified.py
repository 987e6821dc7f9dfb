"""Results for a destination that may not know the patient: PS3.15 Annex E, Basic Profile, Clean Pixel Data.

These are objects besides those for other destinations, built by the same builders from pseudonymised sources,
with UIDs of their own. Mask and report refer to the cleaned image instead of its source. Images that were not
cleaned and verified are left out, with all findings in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage

from ai_pipeline.contract import DerivedImage, ImageKind, PipelineResult
from dicom_node.errors import ResultRefused
from dicom_node.model.kinds import ResultKind
from dicom_node.results import gate
from dicom_node.results.common.context import BuiltObject, ResultContext, SourceObject
from dicom_node.results.common.envelope import encode
from dicom_node.results.common.equipment import deidentifying_equipment
from dicom_node.results.common.identity import object_uid, series_uid
from dicom_node.results.common.source import Source, read_sources
from dicom_node.results.deidentify import profile
from dicom_node.results.deidentify.leaks import KnownIdentity
from dicom_node.results.deidentify.pseudonyms import Pseudonyms
from dicom_node.results.deidentify.sources import as_cleaned, hidden, in_boxes, of_cleaned
from dicom_node.results.sc.cleaned import build_cleaned, cleaned_class, modality_of
from dicom_node.results.seg.segmentation import build_segmentation, is_empty
from dicom_node.results.sr.report import build_report


@dataclass(frozen=True, slots=True)
class Deidentified:
    """What may leave, and why the rest may not (one sentence each, without PHI)."""

    objects: tuple[BuiltObject, ...]
    withheld: tuple[str, ...]


def build_deidentified(
    context: ResultContext, sources: Sequence[SourceObject], result: PipelineResult, pseudonyms: Pseudonyms
) -> Deidentified:
    """The cleaned images, each with its mask, and the report on them.

    An object that is refused by the gate is withheld, and with a cleaned image all that would refer to it:
    the other destinations of the job do not wait for it. Raises ResultRefused and DecodedDifferently for what
    is wrong with the sources, as ``build``.
    """
    read = read_sources(sources)
    return _Builder(context, read, result, pseudonyms).built()


class _Builder:
    def __init__(
        self,
        context: ResultContext,
        sources: Sequence[Source],
        result: PipelineResult,
        pseudonyms: Pseudonyms,
    ) -> None:
        self._context = replace(context, station_name="", charset="utf8")
        self._sources = sources
        self._result = result
        self._pseudonyms = pseudonyms
        self._identity = KnownIdentity.of(sources)
        self._objects: list[BuiltObject] = []
        self._withheld: list[str] = []

    def built(self) -> Deidentified:
        there = {}
        for source in self._sources:
            mask = next(iter(self._images(source, ImageKind.MASK)), None)
            for image in self._images(source, ImageKind.CLEANED):
                cleaned = self._cleaned(hidden(source, self._pseudonyms), image, mask)
                if cleaned is not None:
                    there[source.uid] = cleaned
                    self._mask(source, cleaned)
        if there and ResultKind.SR in self._context.kinds:
            self._report(there)
        return Deidentified(tuple(self._objects), tuple(self._withheld))

    def _cleaned(self, source: Source, image: DerivedImage, mask: DerivedImage | None) -> Source | None:
        """The source as the destination knows it: by its cleaned image. None when that is withheld."""
        context, kind = self._context, ResultKind.CLEANED
        uid = object_uid(context, kind, [source])
        series = series_uid(context, kind, source, modality_of(source))
        try:
            sop_class_uid = cleaned_class(source, image)
        except ResultRefused as refused:
            self._withheld.append(str(refused))
            return None
        made = self._add(
            kind,
            uid,
            sop_class_uid,
            series,
            [source],
            lambda: build_cleaned(context, source, image, mask, uid),
        )
        return as_cleaned(source, sop_class_uid, uid, series) if made else None

    def _mask(self, source: Source, cleaned: Source) -> None:
        context, kind = self._context, ResultKind.SEG
        for mask in self._images(source, ImageKind.MASK):
            if kind in context.kinds and not is_empty(mask):
                uid = object_uid(context, kind, [cleaned])
                series = series_uid(context, kind, cleaned)
                boxes = in_boxes(mask)
                make = _maker(build_segmentation, context, cleaned, boxes, uid)
                self._add(kind, uid, SegmentationStorage, series, [cleaned], make)

    def _report(self, there: dict[str, Source]) -> None:
        context, kind = self._context, ResultKind.SR
        sources = list(there.values())
        uid = object_uid(context, kind, sources)
        of_cleaned_images = of_cleaned(self._result, there)
        self._add(
            kind,
            uid,
            Comprehensive3DSRStorage,
            series_uid(context, kind, sources[0]),
            sources,
            lambda: build_report(context, sources, of_cleaned_images, uid),
        )

    def _add(
        self,
        kind: ResultKind,
        uid: str,
        sop_class_uid: str,
        series: str,
        sources: Sequence[Source],
        make: Callable[[], Dataset],
    ) -> bool:
        try:
            data = None if self._context.exists(uid) else self._checked(kind, sources, make)
        except ResultRefused as refused:
            self._withheld.append(str(refused))
            return False
        supersedes = self._context.supersedes if kind is ResultKind.SR else ""
        self._objects.append(
            BuiltObject(kind, uid, str(sop_class_uid), series, supersedes, data, deidentified=True)
        )
        return True

    def _checked(self, kind: ResultKind, sources: Sequence[Source], make: Callable[[], Dataset]) -> bytes:
        dataset = make()
        ours = {keyword: dataset[keyword].value for keyword in profile.OUR_WORDS if keyword in dataset}
        dataset.ContributingEquipmentSequence.append(deidentifying_equipment(self._context))
        profile.apply(dataset, kind)
        for keyword, value in ours.items():
            setattr(dataset, keyword, value)
        dataset.PatientID, dataset.PatientName = sources[0].header.PatientID, sources[0].header.PatientName
        data = encode(dataset, self._context, sources[0])
        gate.check_deidentified(data, dataset, self._context, kind, sources, self._identity)
        return data

    def _images(self, source: Source, kind: ImageKind) -> list[DerivedImage]:
        return [
            image for image in self._result.images if image.source_uid == source.uid and image.kind is kind
        ]


def _maker(
    build: Callable[[ResultContext, Source, DerivedImage, str], Dataset],
    context: ResultContext,
    source: Source,
    image: DerivedImage,
    uid: str,
) -> Callable[[], Dataset]:
    return lambda: build(context, source, image, uid)
