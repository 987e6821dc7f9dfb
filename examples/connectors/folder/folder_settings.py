"""The settings of a peer with transport = "folder"; read while the node's settings are made."""

from pathlib import Path

from dicom_node.base.config.section import Section


class FolderPeer(Section):
    """Added to ``[[peers]]``."""

    folder: Path = Path("results")
    """With transport = "folder": where results are copied to."""
