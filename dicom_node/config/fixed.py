"""Settings that a running node cannot change."""

from __future__ import annotations

from dicom_node.config.settings import Settings

NEEDS_RESTART = "cannot change while the node runs: restart it"


def fixed(settings: Settings) -> dict[str, object]:
    """The settings that the listener and the database connection read only when they start."""
    return {
        "node.data_dir": settings.node.data_dir,
        "node.database_url": settings.node.database_url,
        "listener.host": settings.listener.host,
        "listener.port": settings.listener.port,
        "listener.share_port": settings.listener.share_port,
        "spool.minimum_free_mib": settings.spool.minimum_free_mib,
        "object_store.url": settings.object_store.url,
    }
