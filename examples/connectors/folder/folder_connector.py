"""A connector that copies results to a folder: a peer with transport = "folder" and folder = "/results"."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from folder_settings import FolderPeer

from dicom_node.base.config.peer import PeerSettings
from dicom_node.base.config.settings import Settings
from dicom_node.base.connectors import typed_section
from dicom_node.deliver.scu import (
    Check,
    Confirmation,
    Outgoing,
    Presence,
    SendReport,
    SendStatus,
)


class FolderDestination:
    """Copies each object to FOLDER/SOP Instance UID.dcm."""

    def __init__(self, peer: PeerSettings, _: Settings) -> None:
        self._folder = typed_section(peer, FolderPeer).folder

    def send(self, objects: Sequence[Outgoing]) -> list[SendReport]:
        """Copy under another name first: a reader of the folder sees whole files only."""
        return [self._copy(item) for item in objects]

    def _copy(self, item: Outgoing) -> SendReport:
        unfinished = self._place(item).with_suffix(".part")
        try:
            shutil.copyfile(item.path, unfinished)
            unfinished.replace(self._place(item))
        except OSError as error:
            return SendReport(SendStatus.RETRY, "", type(error).__name__)
        return SendReport(SendStatus.STORED)

    def confirm(self, objects: Sequence[Outgoing]) -> list[Confirmation]:
        """Whether the files are there."""
        return [
            Confirmation(Presence.FOUND if self._place(item).is_file() else Presence.NOT_FOUND)
            for item in objects
        ]

    def test(self) -> list[Check]:
        """Whether the node may write there."""
        return [Check("folder", os.access(self._folder, os.W_OK), "whether the node may write there")]

    def close(self) -> None:
        """Nothing is open between calls."""

    def _place(self, item: Outgoing) -> Path:
        return self._folder / f"{item.sop_instance_uid}.dcm"
