"""The kinds of things that persons list and change, with the help of their commands."""

from typing import Final

from dicom_node.base.actions.action import Noun

PEERS: Final = Noun("peers", "Peers: modalities and PACS.")
RULES: Final = Noun("rules", "Rules: which pipeline for which study.")
MODELS: Final = Noun("models", "Models: cards and weights.")
STUDIES: Final = Noun("studies", "Received studies and their results.", key="id")
PATIENTS: Final = Noun("patients", "Patients who are registered.", key="patient", rows="patients")
JOBS: Final = Noun("jobs", "Jobs: one rule's pipeline on one study.", key="job", rows="jobs")
OUTBOX: Final = Noun(
    "outbox", "Outbox: one row per result object and destination.", key="delivery", rows="deliveries"
)
FETCHES: Final = Noun("fetches", "Studies that are fetched from peers.", key="fetch", rows="fetches")
MESSAGES: Final = Noun("messages", "HL7 messages that were acknowledged.", key="message", rows="messages")
NOTIFICATIONS: Final = Noun(
    "notifications",
    "Notifications sent by e-mail or webhook, with their receivers.",
    key="notification",
    rows="notifications",
)
PROCESSES: Final = Noun(
    "processes", "Processes of the site: on which machine, since when, and whether they live."
)
EVENTS: Final = Noun("events", "Events: what happened, and when.")
ASSOCIATIONS: Final = Noun("associations", "Associations: who connected, and how many objects came.")
DECISIONS: Final = Noun("decisions", "Decisions of persons that were lost with the database.")
AUDIT: Final = Noun("audit", "Audit: what persons did, and whose studies they saw.")
SCREENS: Final = Noun("screens", "Screens of devices that cleaning has learnt.", key="screen", rows="screens")
USERS: Final = Noun("users", "Users of the console.")
TOKENS: Final = Noun("tokens", "Tokens of the REST API.")
