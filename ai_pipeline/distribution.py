"""Which distribution brought this package: the node's, or its own (``pyproject.toml`` beside this file)."""

from importlib import metadata

OWN, NODE = "dicom-ai-pipeline", "dicom-ai-node"


def is_own() -> bool:
    """Whether this package was installed as the distribution of its own."""
    return next(iter(metadata.distributions(name=OWN)), None) is not None


def version() -> str:
    """The version of the distribution; both have the same."""
    return metadata.version(OWN if is_own() else NODE)


def to_install(extras: str) -> str:
    """The command that installs what the node's ``extras`` bring (``"ai"`` or ``"ai,serve"``)."""
    # Of its own distribution only the service's libraries are an extra.
    return f"pip install '{OWN}[serve]'" if is_own() else f"pip install -c constraints.txt '.[{extras}]'"
