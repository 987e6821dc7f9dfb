"""Checks of rules and of their pipelines, options, models and device rules."""

from collections.abc import Collection, Iterable, Mapping
from contextlib import closing
from functools import cache

from ai_pipeline import extras
from ai_pipeline.burnin.devices.rules import read_rules, site_folder
from ai_pipeline.contract import PipelineCard
from ai_pipeline.errors import CardError, DeviceRuleError, NoDecoder, PluginError, first_line
from ai_pipeline.images.decoder import Decoder
from ai_pipeline.models import registry
from ai_pipeline.models.engine import lacking
from ai_pipeline.pipelines import PIPELINES, card_of, create, option_faults
from dicom_node.config.mistakes import did_you_mean
from dicom_node.config.sections import DEVICE_RULES_FOLDER
from dicom_node.config.settings import RuleSettings, Settings, matches
from dicom_node.preflight.found import Found, Tried


def check_rule(rule: RuleSettings, settings: Settings, *, runs_models: bool) -> Found:
    """Check that the rule's pipeline exists, knows the options, and accepts the images that the rule gives
    it.
    """
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
        card = card_of(rule.pipeline)
    except PluginError as error:
        if runs_models:
            yield f"{key}.pipeline", repr(rule.pipeline), str(error)
        else:
            yield Tried(f"rule {rule.name}", False, f"not needed on this machine, but: {error}")
        return
    yield from _check_conditions(rule, card)
    known = card.options.model_fields
    for option in rule.options.keys() - known.keys():
        instead = card.options.former.get(option) or did_you_mean(option, sorted(known))
        remedy = f"{rule.pipeline} has no such option; {instead}"
        yield f"{key}.options.{option}", "", remedy
    given = {option: value for option, value in rule.options.items() if option in known}
    faults = _faults(rule, given, settings) if runs_models else card.options.faults(given)
    for place, remedy in faults.items():
        if place == _WHOLE:
            yield f"{key}.pipeline", repr(rule.pipeline), remedy
        else:
            yield f"{key}.options.{place}", repr(given[place]) if place in given else "", remedy
    nameless = [peer.name for peer in settings.peers if peer.deidentify and peer.name in rule.receivers]
    for one in card.options.listed() if nameless and not faults else ():
        if one.leaves_text and card.options.sets(one.key, given):
            remedy = f"not in pictures for {nameless[0]}, which is de-identified: give it a rule of its own"
            yield f"{key}.options.{one.key}", repr(given[one.key]), remedy


def check_findings(settings: Settings) -> Found:
    """Names of findings in rules and notifications that no pipeline can return: they would never hold."""
    asked = {rule.name: [one.finding for one in rule.then if one.finding] for rule in settings.rules}
    found: dict[str, frozenset[str] | None] = {}
    for rule in settings.rules:
        if asked[rule.name] or settings.watched_findings:
            try:
                found[rule.name] = _findings(rule, card_of(rule.pipeline), settings)
            except (KeyError, PluginError):  # reported by check_rule
                found[rule.name] = None
        known = found.get(rule.name)
        for name in _never_found(asked[rule.name], known):
            remedy = (
                f"{rule.pipeline} finds no such thing; {did_you_mean(name, sorted(known or ()), 'it finds')}"
            )
            yield f"rules.{rule.name}.then", repr(name), remedy
    every = frozenset(name for names in found.values() for name in names or ())
    for key, watched in settings.watched_findings.items() if found else ():
        for name in _never_found(watched, every):
            remedy = f"no rule finds such a thing; {did_you_mean(name, sorted(every), 'they find')}"
            if None in found.values():  # a program may return whatever it likes
                text = f"findings {name!r}: {remedy}; a pipeline that says nothing of it may"
                yield Tried(key, False, text)
            else:
                yield key, repr(name), remedy


def _never_found(asked: Iterable[str], known: Collection[str] | None) -> list[str]:
    """Those of the patterns that fit no known finding; none where nothing says what is found."""
    if known is None:
        return []
    return [name for name in dict.fromkeys(asked) if not any(matches(name, finding) for finding in known)]


def _findings(rule: RuleSettings, card: PipelineCard, settings: Settings) -> frozenset[str] | None:
    """What the pipeline, with the models that it runs now, may suspect; None where nothing says it."""
    names = {code.meaning[:64] for code in card.codes}
    folder = settings.workers.models_dir
    try:
        models = create(rule.pipeline, models_dir=folder).models()
        found = {model.id: registry.find(f"{model.id}@{model.version}", folder) for model in models}
    except Exception:  # noqa: BLE001  (_check_cards reports it; or a model of another package, without a card)
        return frozenset(names) or None
    whole = bool(rule.options.get("all_labels")) or "all_labels" not in card.options.model_fields
    labels = [label for model in found.values() for label in model.labels]
    names |= {label.code.meaning[:64] for label in labels if label.supported or whole}
    return frozenset(names) if names or card.measures else None


def check_shares(settings: Settings) -> Found:
    """Check that the pipelines in ``[workers]`` exist."""
    for name in settings.workers.pipelines:
        if name not in PIPELINES:
            remedy = f"no such pipeline; {did_you_mean(name, sorted(PIPELINES), 'there are')}"
            yield "workers.pipelines", repr(name), remedy


def _check_conditions(rule: RuleSettings, card: PipelineCard) -> Found:
    """Conditions by which the rule takes only images that its pipeline says to refuse."""
    lifted = {one.lifts for one in card.options.listed() if rule.options.get(one.key)}
    for name, values in {"modality": card.modalities, "view": card.views}.items():
        for pattern in getattr(rule.when, name) if values and name not in lifted else ():
            if not any(matches(pattern, value) for value in values):
                remedy = f"{rule.pipeline} takes no such images; it takes {', '.join(sorted(values))}"
                yield f"rules.{rule.name}.when.{name}", repr(pattern), remedy


_WHOLE = ""
"""The place of what is wrong with a pipeline as a whole."""


def _faults(rule: RuleSettings, options: Mapping[str, object], settings: Settings) -> Mapping[str, str]:
    """What is wrong with the values of the options; the pipeline may have to read its model's card."""
    try:
        return option_faults(create(rule.pipeline, models_dir=settings.workers.models_dir), options)
    except CardError:
        return {}  # reported by _check_cards
    except PluginError as error:
        return {_WHOLE: str(error)}
    except (Exception, SystemExit) as error:  # noqa: BLE001  (it may be another package's)
        return {_WHOLE: f"its options cannot be checked: {first_line(error)}"}


DECODER = "its process can do nothing but decode; JPEG XL and video are kept, and no model sees them"


def check_models(settings: Settings) -> Found:
    """Check that the models' weights match their cards, and that the device rules can be read."""
    if remedy := extras.missing():
        further = ", or set 0 on a machine that runs no models"
        yield "workers.processes", str(settings.workers.processes), f"{remedy}{further}"
        return
    if remedy := lacking(settings.workers.inference):
        yield "workers.inference", settings.workers.inference, remedy
    try:
        walls = _lacking()
    except NoDecoder as error:
        yield "decoder", "", str(error)
    else:
        text = f"this machine cannot take from it {walls} (docs/reference/confinement.md)"
        yield Tried("decoder", not walls, text if walls else DECODER)
    yield from _check_cards(settings)
    yield from _check_device_rules(settings)


@cache
def _lacking() -> str:
    """What a decoder's process cannot give up here: no machine gets other walls while a program runs.

    Raises NoDecoder.
    """
    with closing(Decoder()) as decoder:
        return decoder.lacks()


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
