"""Results for a destination that must not know the patient: PS3.15 Annex E, Basic Profile, Clean Pixel Data.

These objects are built in addition to those for other destinations, by the same builders from pseudonymised
sources, with UIDs of their own. Mask and report refer to the cleaned image instead of its source. Images that
were not cleaned and verified are left out, with all findings in them.
"""

import contextlib
from collections.abc import Iterator, Sequence, Set
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from ai_pipeline.contract import DerivedImage, ImageKind, PipelineResult
from dicom_node.base.dicom.uids import NO_INSTALLATION
from dicom_node.base.errors import ResultRefused
from dicom_node.base.lifecycle import ResultForm, ResultKind, Retained
from dicom_node.results import gate
from dicom_node.results.build import ResultBuilder
from dicom_node.results.built_object import BuiltObject, encode
from dicom_node.results.context import ResultContext
from dicom_node.results.dataset import set_values, text_of
from dicom_node.results.deidentified.identity import KnownIdentity
from dicom_node.results.deidentified.profile import OUR_WORDS, apply, faults
from dicom_node.results.deidentified.pseudonyms import Pseudonyms, pseudonymised
from dicom_node.results.deidentified.retained import retained_keywords
from dicom_node.results.envelope import disclaimer
from dicom_node.results.equipment import node_equipment
from dicom_node.results.report import report_of, uncovered_notes
from dicom_node.results.segmentation import build_segmentation, is_empty
from dicom_node.results.series import series_description
from dicom_node.results.source import Source, SourceObject, read_sources, source_of
from dicom_node.results.sr import build_document

_GAP: Final = 16  # pixels without a mark that part two boxes: wider than between letters of a caption


@dataclass(frozen=True, slots=True)
class Deidentified:
    """The de-identified objects of a job. ``withheld``: why others were not built, one sentence each without
    PHI.
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

    ``options``: the attributes to retain. An object that fails the check before release is left out, and with
    a cleaned image all objects that would refer to it; the other destinations of the job do not wait for it.
    Raises ResultRefused and DecodedDifferently for faulty sources, as ``build`` does.
    """
    builder = _Builder(context, read_sources(sources), pseudonyms, options)
    builder.add_all(result)
    marked = (
        replace(one, deidentified=True, pseudonym_domain=pseudonyms.domain, form=None)
        for one in builder.built
    )
    return Deidentified(tuple(marked), tuple(builder.withheld))


class _Builder(ResultBuilder):
    """Builds the de-identified objects of one job. ``withheld``: the reasons why other objects were not
    built.
    """

    def __init__(
        self,
        context: ResultContext,
        sources: Sequence[Source],
        pseudonyms: Pseudonyms,
        options: Set[Retained],
    ) -> None:
        """Prepare for one job; ``sources``: the true images, ``options``: what is retained."""
        super().__init__(
            replace(
                context,
                station_name="",
                installation=NO_INSTALLATION,
                form=ResultForm(),
                previous={},  # another study is nobody's business there
                study_day=None,
                kinds=context.kinds | {ResultKind.CLEANED},  # what the others refer to
            )
        )
        self.withheld: list[str] = []
        self._sources, self._pseudonyms, self._options = sources, pseudonyms, options
        self._identity = KnownIdentity.from_sources(sources, retained_keywords(options))

    def add_all(self, result: PipelineResult) -> None:
        """Add the cleaned images with their masks, and the report on them."""
        known = {}
        for source in self._sources:
            of_image = [image for image in result.images if image.source_uid == source.uid]
            masks = [image for image in of_image if image.kind is ImageKind.MASK]
            for image in of_image:
                if image.kind is ImageKind.CLEANED:
                    with self._withholding():
                        known[source.uid] = cleaned = self._add_pseudonymised(
                            source, image, next(iter(masks), None)
                        )
                        for mask in masks:
                            if ResultKind.SEG in self.kinds and not is_empty(mask):
                                make = partial(build_segmentation, self.context, cleaned, in_boxes(mask))
                                self.add(ResultKind.SEG, [cleaned], make)
        if known:
            of_job = of_cleaned(result, known)
            sources = list(known.values())
            with self._withholding():
                self.add(
                    ResultKind.SR,
                    sources,
                    lambda uid: build_document(report_of(self.context, sources, of_job), uid),
                    uncovered_notes(result),
                )

    @contextlib.contextmanager
    def _withholding(self) -> Iterator[None]:
        """Context manager: an object that is refused inside is left out, and the reason is added to
        ``withheld``.
        """
        try:
            yield
        except ResultRefused as refused:
            self.withheld.append(str(refused))

    def _add_pseudonymised(self, source: Source, image: DerivedImage, mask: DerivedImage | None) -> Source:
        """Add the cleaned image of ``source``; return a pseudonymised source that refers to the cleaned image
        instead.

        ``mask``: the pixels that were filled; None if that is not known.
        """
        source = pseudonymised(source, self._pseudonyms, self._options, self._identity)
        self.add_cleaned(source, image, mask)
        header, made = deepcopy(source.header), self.built[-1]  # of the same size and frames
        set_values(
            header,
            SOPClassUID=made.sop_class_uid,
            SOPInstanceUID=made.sop_instance_uid,
            SeriesInstanceUID=made.series_instance_uid,
        )
        return source_of(source.stored, header)

    def encode_checked(self, dataset: Dataset, kind: ResultKind, sources: Sequence[Source]) -> bytes:
        """Apply the confidentiality profile to an object, check that nothing in it identifies the patient,
        and return its bytes. Raises ResultRefused.
        """
        ours = {keyword: dataset[keyword].value for keyword in OUR_WORDS if keyword in dataset}
        what = "AI node: applied the confidentiality profile"
        dataset.ContributingEquipmentSequence.append(
            node_equipment(self.context, what, codes.DCM.DeIdentifyingEquipment)
        )
        apply(dataset, kind, self._options)
        set_values(dataset, **ours)
        given = sources[0].header
        kept = (word for word in retained_keywords(self._options) if word in given)
        for keyword in ("PatientID", "PatientName", *kept):
            dataset[keyword] = given[keyword]
        data = encode(dataset, self.context, sources[0])
        further = partial(profile_violations, self.context, kind, given, self._identity, self._options)
        gate.check(data, dataset, self.context, kind, sources, further)
        return data


def profile_violations(
    context: ResultContext,
    kind: ResultKind,
    source: Dataset,
    identity: KnownIdentity,
    options: Set[Retained],
    read: Dataset,
    header: bytes,
) -> Iterator[str]:
    """Yield one sentence for each violation of the profile in an object, and for each value that identifies
    the patient.

    ``source``: the pseudonymised header of its source. ``identity``: the values that must not occur.
    ``options``: what is retained. ``read``: the object; ``header``: its bytes before Pixel Data.
    """
    ours = (series_description(context, kind), disclaimer(context), context.pipeline)
    scanner = [text_of(source, word) for word in ("Manufacturer", "ManufacturerModelName")]
    yield from faults(read, options)
    yield from identity.found_in(read, header, ours, scanner)


def of_cleaned(result: PipelineResult, cleaned: dict[str, Source]) -> PipelineResult:
    """The findings and notes on cleaned images, with the UID of each source replaced by that of its cleaned
    image.

    ``cleaned``: the cleaned images by the UIDs of their sources. Left out are measurements read from the
    pixels, and tracking UIDs that other destinations know too.
    """
    findings = tuple(
        replace(finding, source_uid=cleaned[finding.source_uid].uid, tracking_uid="")
        for finding in result.findings
        if finding.source_uid in cleaned
    )
    notes = tuple(
        replace(note, source_uid=cleaned[note.source_uid].uid if note.source_uid else None)
        for note in result.quality
        if note.source_uid is None or note.source_uid in cleaned
    )
    measurements = tuple(
        replace(measurement, source_uid=cleaned[measurement.source_uid].uid)
        for measurement in result.measurements
        if measurement.model is not None and measurement.source_uid in cleaned
    )
    return PipelineResult(findings, quality=notes, models=result.models, measurements=measurements)


def in_boxes(mask: DerivedImage) -> DerivedImage:
    """The mask as filled boxes, because a mask along the strokes of letters would show the removed text.

    For a cine, the boxes cover the pixels that were changed in any frame.
    """
    frames = mask.frames if mask.frames.ndim == 3 else mask.frames[None]
    filled = np.zeros(frames.shape[1:], np.bool_)
    _fill(np.any(frames, axis=0), filled)
    return replace(mask, frames=np.broadcast_to(filled, frames.shape))


def _fill(mask: npt.NDArray[np.bool_], filled: npt.NDArray[np.bool_]) -> None:
    """Set in ``filled`` the boxes around the marked pixels of ``mask``, by recursive cuts along empty rows
    and columns (XY cut); what cannot be cut is one box.
    """
    for rows in _runs(mask, axis=1):
        for columns in _runs(mask[rows], axis=0):
            part = mask[rows, columns]
            inner = _runs(part, axis=1)
            if len(inner) == 1:
                filled[rows, columns][inner[0]] = True
            else:
                _fill(part, filled[rows, columns])


def _runs(mask: npt.NDArray[np.bool_], axis: int) -> list[slice]:
    """The ranges of rows (``axis`` 1) or columns (``axis`` 0) with marked pixels; ranges at most ``_GAP``
    pixels apart are joined.
    """
    places = np.flatnonzero(np.any(mask, axis=axis))
    if not len(places):
        return []
    cuts = np.flatnonzero(np.diff(places) > _GAP)
    starts, ends = np.append(places[0], places[cuts + 1]), np.append(places[cuts], places[-1])
    return [slice(int(start), int(end) + 1) for start, end in zip(starts, ends, strict=True)]
