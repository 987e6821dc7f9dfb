"""The UIDs of results: derived from everything that shapes the object, so that the same input gives the same
object.
"""

import json
from collections.abc import Sequence
from typing import Final

from ai_pipeline import contract
from dicom_node.base.dicom.uids import (
    derived_uid,
)
from dicom_node.base.lifecycle import ResultKind
from dicom_node.results.context import ResultContext
from dicom_node.results.source import Source

# Raised with every change that makes other bytes from the same input; written into every object.
BUILDER_VERSION: Final = "18"


def series_uid(context: ResultContext, kind: ResultKind, source: Source, *parts: str) -> str:
    """The Series Instance UID for all results of one kind in a study, also for images that arrive later.

    It changes when the patient's identity changes, because a series has one patient. ``parts``: texts that
    distinguish several series of one kind.
    """
    of_study = (source.study_uid, source.stored.identity_sha256)
    return derived_uid("series", *shaping_texts(context), *context.form.texts(kind), kind, *of_study, *parts)


def tracking_uid(context: ResultContext, source: Source, *parts: str) -> str:
    """The Tracking UID of a finding, derived only from its image and ``parts`` (what the finding is), so that
    all objects about it agree.
    """
    return derived_uid("tracking", *shaping_texts(context), source.study_uid, *_source_parts(source), *parts)


def statement_uid(context: ResultContext, what: str, *parts: str) -> str:
    """The SOP Instance UID of a person's statement on results, derived from its content: same input, same
    UID.

    ``what``: the kind of statement, "assessment" or "rejection". ``parts``: all texts that it states.
    """
    return derived_uid(what, *shaping_texts(context), *parts)


def shaping_texts(context: ResultContext) -> tuple[str, ...]:
    """The texts that shape every result of a job and are part of its UIDs: versions, node, options and
    models.
    """
    options = json.dumps(dict(context.options), sort_keys=True, default=str, ensure_ascii=True)
    return BUILDER_VERSION, context.installation.device_uid, options, *program_texts(context)


def program_texts(context: ResultContext) -> tuple[str, ...]:
    """The texts that name the pipeline and its models, with versions and hashes."""
    models = [part for model in context.models for part in model_parts(model)]
    return context.pipeline, context.pipeline_version, *models


def model_parts(model: contract.ModelRef) -> tuple[str, ...]:
    """The (name, version, hash of the weights, hash of the model card) of a model; the card is the file about
    it.
    """
    return (model.id, model.version, model.sha256, model.card_sha256)


def _source_parts(source: Source) -> tuple[str, ...]:
    """The (SOP Instance UID, hash of the pixels, hash of the identity) of an image, as part of the UIDs of
    its results.
    """
    return (source.uid, source.stored.pixels_sha256, source.stored.identity_sha256)


def object_uid(
    context: ResultContext, kind: ResultKind, sources: Sequence[Source], parts: tuple[str, ...]
) -> str:
    """The SOP Instance UID of a result of this kind on ``sources``, derived from all that shapes it.

    ``parts``: texts that distinguish several objects of one kind.
    """
    named = [part for source in sorted(sources, key=lambda s: s.uid) for part in _source_parts(source)]
    shaping = (*shaping_texts(context), *context.form.texts(kind), kind, sources[0].study_uid)
    return derived_uid("object", *shaping, *named, *parts)
