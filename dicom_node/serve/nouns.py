"""Which modules declare the actions of each noun: they are imported when the noun is used, not before."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Final

from dicom_node.base.actions.action import Action, Noun
from dicom_node.base.actions.nouns import (
    ASSOCIATIONS,
    AUDIT,
    DECISIONS,
    EVENTS,
    FETCHES,
    JOBS,
    MESSAGES,
    MODELS,
    NOTIFICATIONS,
    OUTBOX,
    PATIENTS,
    PEERS,
    PROCESSES,
    RULES,
    SCREENS,
    STUDIES,
    TOKENS,
    USERS,
)

_LISTS = "dicom_node.base.store.views"
_PEOPLE = "dicom_node.people"
MODULES: Final[Mapping[Noun, Sequence[str]]] = {
    PEERS: [f"{_PEOPLE}.peers"],
    RULES: [f"{_PEOPLE}.rule_trial", f"{_PEOPLE}.rule_flow"],
    MODELS: [f"{_PEOPLE}.site_models", f"{_PEOPLE}.verdicts"],
    STUDIES: [
        _LISTS,
        *(f"{_PEOPLE}.{part}" for part in ("studies", "verdicts", "held_results", "spool", "withdrawal")),
    ],
    PATIENTS: [f"{_PEOPLE}.registered", f"{_PEOPLE}.hl7_messages"],
    JOBS: [_LISTS, f"{_PEOPLE}.jobs"],
    OUTBOX: [_LISTS, f"{_PEOPLE}.outbox"],
    FETCHES: [f"{_PEOPLE}.fetches"],
    MESSAGES: [f"{_PEOPLE}.hl7_messages"],
    SCREENS: [f"{_PEOPLE}.screens"],
    NOTIFICATIONS: [f"{_PEOPLE}.notifications"],
    PROCESSES: [f"{_PEOPLE}.processes"],
    EVENTS: [_LISTS],
    ASSOCIATIONS: [_LISTS],
    DECISIONS: [f"{_PEOPLE}.lost_decisions"],
    AUDIT: [f"{_PEOPLE}.audit"],
    USERS: [f"{_PEOPLE}.users"],
    TOKENS: [f"{_PEOPLE}.users"],
}
"""In the order of the help; the order of a noun's modules, and of the functions in each, is also that of its
help.
"""


def find(noun: Noun, name: str) -> Action | None:
    """The action of this name, None without one; its modules are imported until one declares it: a list does
    without what is slow to import.
    """
    for module in MODULES[noun]:
        import_module(module)
        if name in noun.actions:
            return noun.actions[name]
    return None


def actions_of(noun: Noun) -> list[Action]:
    """All actions of the noun, in the order of the help."""
    for module in MODULES[noun]:
        import_module(module)

    def place(action: Action) -> tuple[int, int]:
        """Where the function of the action stands: its module, and its first line there."""
        function = action.function
        return MODULES[noun].index(function.__module__), function.__code__.co_firstlineno

    return sorted(noun.actions.values(), key=place)
