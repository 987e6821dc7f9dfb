"""Rules and what runs them: pipelines, their options, models, device rules."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ai_pipeline import extras
from ai_pipeline.burnin.devices.rules import read_rules, site_folder
from ai_pipeline.contract import ChecksOptions
from ai_pipeline.errors import CardError, DeviceRuleError, NoDecoder, PluginError, first_line
from ai_pipeline.images.decoder import Decoder
from ai_pipeline.models import registry
from ai_pipeline.models.store.folder import in_shadow
from ai_pipeline.pipelines import PIPELINES, create, pipeline_class
from dicom_node.config.mistakes import did_you_mean
from dicom_node.config.patterns import matches
from dicom_node.config.sections import DEVICE_RULES_FOLDER
from dicom_node.config.settings import RuleSettings, Settings
from dicom_node.preflight.found import Found, Tried


def check_rule(rule: RuleSettings, settings: Settings, *, runs_models: bool) -> Found:
    """Whether its pipeline is there and knows its options, and whether it takes what the rule gives it."""
    key = f"rules.{rule.name}"
    if rule.pipeline not in PIPELINES:
        remedy = f"no such pipeline; {did_you_mean(rule.pipeline, sorted(PIPELINES), 'there are')}"
        yield f"{key}.pipeline", repr(rule.pipeline), remedy
        return
    if extras.missing():
        if not runs_models:
            yield Tried(f"rule {rule.name}", True, "options are not checked: this machine runs no models")
        return
    try:
        pipeline: Any = pipeline_class(rule.pipeline)
    except PluginError as error:
        if runs_models:
            yield f"{key}.pipeline", repr(rule.pipeline), str(error)
        else:
            yield Tried(f"rule {rule.name}", False, f"not needed on this machine, but: {error}")
        return
    for option, value in rule.options.items():
        if option not in pipeline.options:
            remedy = f"{rule.pipeline} has no such option; {did_you_mean(option, sorted(pipeline.options))}"
            yield f"{key}.options.{option}", "", remedy
        elif not _is_a(value, pipeline.options[option]):
            wanted = _WANTED.get(pipeline.options[option], "text, in quotes")
            yield f"{key}.options.{option}", repr(value), f"must be {wanted}"
    yield from _check_conditions(rule, pipeline)
    known = {k: v for k, v in rule.options.items() if _is_a(v, pipeline.options.get(k))}
    if runs_models:
        yield from _check_values(rule, known, settings)


def check_shares(settings: Settings) -> Found:
    """Whether the pipelines that ``[workers]`` names are there."""
    workers = settings.workers
    for key, names in (("pipelines", workers.pipelines), ("at_once", tuple(workers.at_once))):
        for name in names:
            if name not in PIPELINES:
                remedy = f"no such pipeline; {did_you_mean(name, sorted(PIPELINES), 'there are')}"
                yield f"workers.{key}", repr(name), remedy


_WANTED = {
    dict: "a table", bool: "true or false", int: "a whole number", float: "a number",
    list: 'a list, such as ["a", "b"]',
}  # fmt: skip


def _is_a(value: object, kind: type | None) -> bool:
    """Whether a TOML value is of this kind: true is no number, and a whole number is one."""
    if kind is None or (isinstance(value, bool) and kind is not bool):
        return False
    return isinstance(value, int | float if kind is float else kind)


def _check_conditions(rule: RuleSettings, pipeline: Any) -> Found:
    """Conditions by which the rule takes only images that its pipeline says to refuse."""
    takes = {"modality": getattr(pipeline, "modalities", ()), "view": getattr(pipeline, "views", ())}
    if rule.options.get("any_modality"):
        takes["modality"] = ()
    for name, values in takes.items():
        for pattern in getattr(rule.when, name) if values else ():
            if not any(matches(pattern, value) for value in values):
                remedy = f"{rule.pipeline} takes no such images; it takes {', '.join(sorted(values))}"
                yield f"rules.{rule.name}.when.{name}", repr(pattern), remedy


def _check_values(rule: RuleSettings, options: Mapping[str, object], settings: Settings) -> Found:
    """What only the pipeline can say of its options' values; it may have to read its model's card."""
    try:
        pipeline = create(rule.pipeline, models_dir=settings.workers.models_dir)
        faults = pipeline.option_faults(options) if isinstance(pipeline, ChecksOptions) else {}
    except CardError:
        return  # reported by _check_cards
    except PluginError as error:
        yield f"rules.{rule.name}.pipeline", repr(rule.pipeline), str(error)
        return
    except (Exception, SystemExit) as error:  # noqa: BLE001  (it may be another package's)
        remedy = f"its options cannot be checked: {first_line(error)}"
        yield f"rules.{rule.name}.pipeline", repr(rule.pipeline), remedy
        return
    for option, remedy in faults.items():
        given = repr(rule.options[option]) if option in rule.options else ""
        yield f"rules.{rule.name}.options.{option}", given, remedy


def check_models(settings: Settings) -> Found:
    """The models' weights are those of their cards, the device rules can be read."""
    if remedy := extras.missing():
        further = ", or set 0 on a machine that runs no models"
        yield "workers.processes", str(settings.workers.processes), f"{remedy}{further}"
        return
    yield from _check_decoder()
    yield from _check_cards(settings)
    yield from _check_device_rules(settings)


def _check_decoder() -> Found:
    try:
        lacking = _lacking()
    except NoDecoder as error:
        yield "decoder", "", str(error)
    else:
        text = f"this machine cannot take from it {lacking} (docs/design.md, Decoding)"
        yield Tried("decoder", not lacking, text if lacking else "its process can do nothing but decode")


@cache
def _lacking() -> str:
    """What a decoder's process cannot give up here: no machine gets other walls while a program runs.

    Raises NoDecoder.
    """
    decoder = Decoder()
    try:
        return decoder.lacks()
    finally:
        decoder.close()


def _check_cards(settings: Settings) -> Found:
    try:
        cards = registry.cards(settings.workers.models_dir)
    except CardError as error:
        yield "workers.models_dir", str(settings.workers.models_dir or ""), str(error)
        return
    for card in cards:
        try:
            registry.verify(card)
        except CardError as error:
            yield f"model {card.id}", "", str(error)
        else:
            yield Tried(f"model {card.id}", True, f"version {card.version}, weights are those of the card")
    try:
        second = in_shadow(settings.workers.models_dir)
    except CardError as error:
        yield "pipeline chest_xray_shadow", "", str(error)
    else:
        if second is not None:
            yield Tried(
                "chest_xray_shadow", True, f"{second.name} is compared with the active model, never sent"
            )
    for name in sorted({rule.pipeline for rule in settings.rules} & PIPELINES.keys()):
        if not settings.workers.takes(name):
            continue
        try:
            create(name, models_dir=settings.workers.models_dir).models()
        except CardError as error:  # the one that was activated is gone: no other is taken
            yield f"pipeline {name}", "", str(error)
        except PluginError:
            pass  # reported by check_rule
        except (Exception, SystemExit) as error:  # noqa: BLE001  (it may be another package's)
            yield f"pipeline {name}", "", f"cannot name its models: {first_line(error)}"


def _check_device_rules(settings: Settings) -> Found:
    own = site_folder(settings.workers.device_rules_dir, settings.node.data_dir / DEVICE_RULES_FOLDER)
    try:
        rules = read_rules(own)
    except DeviceRuleError as error:
        for fault in error.faults:
            place = ": ".join(filter(None, (str(fault.file), fault.key)))
            yield "workers.device_rules_dir", place, fault.remedy
        return
    files = len(list(own.glob("*.toml"))) if own else 0
    text = f"{len(rules)} in all" + (f", {files} files of yours in {own}" if own else "")
    yield Tried("device rules", own is None or files > 0, text)
