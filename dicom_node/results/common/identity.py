"""A result's identity is derived: UIDs from everything that shapes the object."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from ai_pipeline.contract import ModelRef
from dicom_node.dicom.own_objects import DEVICE_UID
from dicom_node.dicom.uids import derived_uid
from dicom_node.model.kinds import ResultKind
from dicom_node.results.common.context import ResultContext
from dicom_node.results.common.source import Source

# Raised with every change that makes other bytes from the same input; written into every object.
BUILDER_VERSION: Final = "3"


def object_uid(context: ResultContext, kind: ResultKind, sources: Sequence[Source], *parts: str) -> str:
    """SOP Instance UID of a result of these sources; ``parts`` tell apart several of one kind."""
    named = [part for source in sorted(sources, key=lambda s: s.uid) for part in _source_parts(source)]
    return derived_uid("object", *_shaping(context), kind, sources[0].study_uid, *named, *parts)


def series_uid(context: ResultContext, kind: ResultKind, source: Source, *parts: str) -> str:
    """Series of all results of one kind in a study: images that come late go into the same one.

    A changed identity of the patient makes another series, because a series has one patient.
    """
    identity = source.stored.identity_sha256
    return derived_uid("series", *_shaping(context), kind, source.study_uid, identity, *parts)


def tracking_uid(context: ResultContext, source: Source, *parts: str) -> str:
    """Tracking UID of a finding: of its image only, so that report and presentation state agree for ever."""
    return derived_uid("tracking", *_shaping(context), source.study_uid, *_source_parts(source), *parts)


def model_device_uid(model: ModelRef) -> str:
    """Device UID of a model: another for other weights and another card (IHE AIR 6.5.3.1)."""
    return derived_uid("model", *_model_parts(model))


def observer_uid(context: ResultContext) -> str:
    """Device UID of the whole: the node with these models."""
    return derived_uid("observer", DEVICE_UID, *_shaping(context))


def _shaping(context: ResultContext) -> tuple[str, ...]:
    options = json.dumps(dict(context.options), sort_keys=True, default=str, ensure_ascii=True)
    models = [part for model in context.models for part in _model_parts(model)]
    return (BUILDER_VERSION, context.pipeline, context.pipeline_version, options, context.charset, *models)


def _model_parts(model: ModelRef) -> tuple[str, str, str, str]:
    return (model.id, model.version, model.sha256, model.card_sha256)


def _source_parts(source: Source) -> tuple[str, str, str]:
    return (source.uid, source.stored.pixels_sha256, source.stored.identity_sha256)
