"""A result object as it is handed on: planned by its UIDs, or complete with its bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydicom.dataset import Dataset

from dicom_node.base.lifecycle import ResultForm, ResultKind
from dicom_node.results.context import ResultContext
from dicom_node.results.dataset import encode_in_charset_of
from dicom_node.results.envelope import freeze_times
from dicom_node.results.series import series_description
from dicom_node.results.source import Source
from dicom_node.results.uids import object_uid, series_uid


@dataclass(frozen=True, slots=True)
class BuiltObject:
    """One result object. ``data``: the complete Part 10 file; None if the object was built before.

    ``supersedes``: SOP Instance UID of the object that it replaces, "" for none. ``deidentified``: it is only
    for destinations that must not know the patient, in this ``pseudonym_domain``. ``form``: it is only for
    destinations that want their results so; None: for all. ``not_beside``: a peer that takes results of one
    of these kinds does not get this object. ``of_program``: a program of others made it. ``held``: it waits
    for a person, whatever its rule says.
    """

    kind: ResultKind
    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    supersedes: str
    data: bytes | None = field(repr=False)
    deidentified: bool = False
    pseudonym_domain: str = ""
    form: ResultForm | None = None
    not_beside: frozenset[ResultKind] = frozenset()
    of_program: bool = False
    held: bool = False


def unbuilt_object(
    context: ResultContext,
    kind: ResultKind,
    sop_class_uid: str,
    sources: Sequence[Source],
    parts: tuple[str, ...],
    series_parts: tuple[str, ...],
) -> BuiltObject:
    """A result with its UIDs and without its bytes, by which one finds out whether it was built before.

    ``sources``: the images that it is about. ``parts`` and ``series_parts``: texts that distinguish several
    objects, or series, of one kind.
    """
    return BuiltObject(
        kind=kind,
        sop_instance_uid=object_uid(context, kind, sources, parts),
        sop_class_uid=str(sop_class_uid),
        series_instance_uid=series_uid(context, kind, sources[0], *series_parts),
        supersedes=context.supersedes if kind is ResultKind.SR else "",
        data=None,
        form=context.form,
    )


def encode(dataset: Dataset, context: ResultContext, source: Source) -> bytes:
    """The Part 10 file of a result, in ISO_IR 192 or, if the context says so, in the source's character
    set.
    """
    return encode_in_charset_of(dataset, source.header if context.form.charset == "source" else Dataset())


def built_document(
    document: Dataset,
    context: ResultContext,
    kind: ResultKind,
    about: Dataset,
    supersedes: str = "",
) -> BuiltObject:
    """Complete and encode a person's statement about the result ``about``, in the character set of that
    result.

    Patient and study must already be copied. ``supersedes``: SOP Instance UID of the statement that it
    replaces, "" for none.
    """
    document.SeriesDescription = series_description(context, kind)
    freeze_times(document, context)
    return BuiltObject(
        kind=kind,
        sop_instance_uid=document.SOPInstanceUID,
        sop_class_uid=document.SOPClassUID,
        series_instance_uid=document.SeriesInstanceUID,
        supersedes=supersedes,
        data=encode_in_charset_of(document, about),
    )
