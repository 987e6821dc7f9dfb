"""UIDs of results, derived from everything that shapes the object."""

import json
from collections.abc import Sequence
from typing import Final

from ai_pipeline.contract import ModelRef
from dicom_node.dicom.uids import derived_uid
from dicom_node.model.kinds import ResultKind
from dicom_node.results.common.context import BuiltObject, ResultContext
from dicom_node.results.common.source import Source

# Raised with every change that makes other bytes from the same input; written into every object.
BUILDER_VERSION: Final = "11"


def series_uid(context: ResultContext, kind: ResultKind, source: Source, *parts: str) -> str:
    """Series Instance UID for all results of one kind in a study, also of images that arrive later.

    It changes when the patient's identity changes, because a series has one patient.
    """
    shaping = (*_shaping(context), context.charset)
    identity = source.stored.identity_sha256
    return derived_uid("series", *shaping, kind, source.study_uid, identity, *parts)


def tracking_uid(context: ResultContext, source: Source, *parts: str) -> str:
    """Tracking UID of a finding, derived from its image only, so that all objects on it always agree."""
    return derived_uid("tracking", *_shaping(context), source.study_uid, *_source_parts(source), *parts)


def document_uid(context: ResultContext, what: str, *parts: str) -> str:
    """SOP Instance UID of a person's statement on results: an assessment, a rejection note."""
    return derived_uid(what, *_shaping(context), *parts)


def model_device_uid(context: ResultContext, model: ModelRef) -> str:
    """Device UID of a model in this installation; it changes with the weights or the card (IHE AIR
    6.5.3.1).
    """
    return derived_uid("model", context.installation.device_uid, *_model_parts(model))


def observer_uid(context: ResultContext) -> str:
    """Device Observer UID (121012, DCM) of this installation with this pipeline and its models."""
    return derived_uid("observer", context.installation.device_uid, *_program(context))


def _shaping(context: ResultContext) -> tuple[str, ...]:
    options = json.dumps(dict(context.options), sort_keys=True, default=str, ensure_ascii=True)
    return BUILDER_VERSION, context.installation.device_uid, options, *_program(context)


def _program(context: ResultContext) -> tuple[str, ...]:
    models = [part for model in context.models for part in _model_parts(model)]
    return context.pipeline, context.pipeline_version, *models


def _model_parts(model: ModelRef) -> tuple[str, str, str, str]:
    return (model.id, model.version, model.sha256, model.card_sha256)


def _source_parts(source: Source) -> tuple[str, str, str]:
    return (source.uid, source.stored.pixels_sha256, source.stored.identity_sha256)


def described(
    context: ResultContext,
    kind: ResultKind,
    sop_class_uid: str,
    sources: Sequence[Source],
    parts: tuple[str, ...] = (),
    series_parts: tuple[str, ...] = (),
) -> BuiltObject:
    """An object with its UIDs and without its bytes, to find out whether it was built before.

    ``parts`` and ``series_parts`` distinguish several objects, or series, of one kind.
    """
    named = [part for source in sorted(sources, key=lambda s: s.uid) for part in _source_parts(source)]
    shaping = (*_shaping(context), context.charset)
    return BuiltObject(
        kind=kind,
        sop_instance_uid=derived_uid("object", *shaping, kind, sources[0].study_uid, *named, *parts),
        sop_class_uid=str(sop_class_uid),
        series_instance_uid=series_uid(context, kind, sources[0], *series_parts),
        supersedes=context.supersedes if kind is ResultKind.SR else "",
        data=None,
        burned_in_boxes=context.burned_in_boxes,
        charset=context.charset,
    )
