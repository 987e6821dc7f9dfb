"""Results for a destination that must not know the patient: PS3.15 Annex E, Basic Profile, Clean Pixel Data.

The peer's key ``retain`` lists further values that such a destination gets. These objects are built in
addition to those for other destinations, by the same builders from pseudonymised sources, with UIDs of their
own. Mask and report refer to the cleaned image instead of its source. Images that were not cleaned and
verified are left out, with all findings in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass, replace

from pydicom.dataset import Dataset
from pydicom.uid import Comprehensive3DSRStorage, SegmentationStorage

from ai_pipeline.contract import DerivedImage, ImageKind, PipelineResult
from dicom_node.dicom.own_objects import NO_INSTALLATION
from dicom_node.errors import ResultRefused
from dicom_node.model.deidentified import Retained
from dicom_node.model.kinds import ResultKind
from dicom_node.results import gate
from dicom_node.results.common.context import BuiltObject, ResultContext, SourceObject, not_here
from dicom_node.results.common.envelope import encode
from dicom_node.results.common.equipment import acquisition_equipment, deidentifying_equipment
from dicom_node.results.common.identity import described
from dicom_node.results.common.previous import COMPARED
from dicom_node.results.common.source import Source, read_sources
from dicom_node.results.deidentify import profile
from dicom_node.results.deidentify.leaks import KnownIdentity
from dicom_node.results.deidentify.pseudonyms import Pseudonyms
from dicom_node.results.deidentify.retained import KEYWORDS
from dicom_node.results.deidentify.sources import as_cleaned, in_boxes, of_cleaned, pseudonymised
from dicom_node.results.sc.cleaned import build_cleaned, cleaned_class, modality_of
from dicom_node.results.segmentation import build_segmentation, is_empty
from dicom_node.results.sr.report import build_report


@dataclass(frozen=True, slots=True)
class Deidentified:
    """The de-identified objects, and the reasons why others were not built (one sentence each, without
    PHI).
    """

    objects: tuple[BuiltObject, ...]
    withheld: tuple[str, ...]


def build_deidentified(
    context: ResultContext,
    sources: Sequence[SourceObject],
    result: PipelineResult,
    pseudonyms: Pseudonyms,
    options: Set[Retained] = frozenset(),
) -> Deidentified:
    """Build the cleaned images with their masks, and the report on them, for de-identified destinations.

    ``options``: the attributes to retain. An object that the gate refuses is left out, and with a cleaned
    image all objects that would refer to it; the other destinations of the job do not wait for it. Raises
    ResultRefused and DecodedDifferently for faulty sources, as ``build`` does.
    """
    if any(note.name == COMPARED for note in result.quality):
        raise ResultRefused("a comparison names an earlier study: it is for no de-identified destination")
    read = read_sources(sources)
    return _Builder(context, read, result, pseudonyms, options).built()


class _Builder:
    def __init__(
        self,
        context: ResultContext,
        sources: Sequence[Source],
        result: PipelineResult,
        pseudonyms: Pseudonyms,
        options: Set[Retained],
    ) -> None:
        self._context = replace(
            context,
            station_name="",
            installation=NO_INSTALLATION,
            charset="utf8",
            previous={},
            study_day=None,
        )
        self._sources = sources
        self._result = result
        self._pseudonyms = pseudonyms
        self._options = options
        self._identity = KnownIdentity.from_sources(sources, options)
        self._objects: list[BuiltObject] = []
        self._withheld: list[str] = []

    def built(self) -> Deidentified:
        cleaned_sources = {}
        for source in self._sources:
            mask = next(iter(self._images(source, ImageKind.MASK)), None)
            for image in self._images(source, ImageKind.CLEANED):
                known = pseudonymised(source, self._pseudonyms, self._options)
                cleaned = self._cleaned(known, image, mask)
                if cleaned is not None:
                    cleaned_sources[source.uid] = cleaned
                    self._masks(source, cleaned)
        if cleaned_sources and ResultKind.SR in self._context.kinds:
            self._report(cleaned_sources)
        return Deidentified(tuple(self._objects), tuple(self._withheld))

    def _cleaned(self, source: Source, image: DerivedImage, mask: DerivedImage | None) -> Source | None:
        """The source as the destination knows it: by its cleaned image. None when that is withheld."""
        try:
            sop_class_uid = cleaned_class(source, image)
        except ResultRefused as refused:
            self._withheld.append(str(refused))
            return None
        made = self._add(
            (ResultKind.CLEANED, sop_class_uid),
            [source],
            lambda uid: build_cleaned(self._context, source, image, mask, uid),
            series_parts=(modality_of(source),),
        )
        if made is None:
            return None
        return as_cleaned(source, sop_class_uid, made.sop_instance_uid, made.series_instance_uid)

    def _masks(self, source: Source, cleaned: Source) -> None:
        for mask in self._images(source, ImageKind.MASK):
            if ResultKind.SEG in self._context.kinds and not is_empty(mask):
                self._mask(cleaned, in_boxes(mask))

    def _mask(self, cleaned: Source, boxes: DerivedImage) -> None:
        self._add(
            (ResultKind.SEG, SegmentationStorage),
            [cleaned],
            lambda uid: build_segmentation(self._context, cleaned, boxes, uid),
        )

    def _report(self, cleaned_sources: dict[str, Source]) -> None:
        sources = list(cleaned_sources.values())
        result = of_cleaned(self._result, cleaned_sources)
        self._add(
            (ResultKind.SR, Comprehensive3DSRStorage),
            sources,
            lambda uid: build_report(self._context, sources, result, uid),
            not_here(self._result),
        )

    def _add(
        self,
        kind: tuple[ResultKind, str],
        sources: Sequence[Source],
        make: Callable[[str], Dataset],
        parts: tuple[str, ...] = (),
        series_parts: tuple[str, ...] = (),
    ) -> BuiltObject | None:
        """Build and check an object, or name it where it exists already; None when it is withheld."""
        built = replace(
            described(self._context, *kind, sources, parts, series_parts),
            deidentified=True,
            pseudonym_domain=self._pseudonyms.domain,
            burned_in_boxes=None,
        )
        try:
            if not self._context.exists(built.sop_instance_uid):
                data = self._checked(built.kind, sources, make(built.sop_instance_uid))
                built = replace(built, data=data)
        except ResultRefused as refused:
            self._withheld.append(str(refused))
            return None
        self._objects.append(built)
        return built

    def _checked(self, kind: ResultKind, sources: Sequence[Source], dataset: Dataset) -> bytes:
        ours = {keyword: dataset[keyword].value for keyword in profile.OUR_WORDS if keyword in dataset}
        dataset.ContributingEquipmentSequence.append(deidentifying_equipment(self._context))
        profile.apply(dataset, kind, self._options)
        for keyword, value in ours.items():
            setattr(dataset, keyword, value)
        given = sources[0].header
        dataset.PatientID, dataset.PatientName = given.PatientID, given.PatientName
        for option in self._options - {Retained.DEVICE}:
            for keyword in KEYWORDS[option]:
                if keyword in given:
                    dataset[keyword] = given[keyword]
        if Retained.DEVICE in self._options:
            dataset.ContributingEquipmentSequence.append(acquisition_equipment(given))
        data = encode(dataset, self._context, sources[0])
        gate.check_deidentified(data, dataset, self._context, kind, sources, self._identity, self._options)
        return data

    def _images(self, source: Source, kind: ImageKind) -> list[DerivedImage]:
        return [
            image for image in self._result.images if image.source_uid == source.uid and image.kind is kind
        ]
