"""A connector that copies results to a folder: a peer with transport = "folder" and folder = "/results"."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from folder_settings import FolderPeer

from dicom_node.config.settings import PeerSettings, Settings
from dicom_node.connectors import part
from dicom_node.scu.destination import Check, Confirmation, Outgoing, Presence, SendReport, SendStatus


class FolderDestination:
    """Copies each object to FOLDER/SOP Instance UID.dcm."""

    def __init__(self, peer: PeerSettings, _: Settings) -> None:
        self._folder = part(peer, FolderPeer).folder

    def send(self, objects: Sequence[Outgoing]) -> list[SendReport]:
        """Copy under another name first: a reader of the folder sees whole files only."""
        return [self._copy(item) for item in objects]

    def _copy(self, item: Outgoing) -> SendReport:
        there = self._place(item)
        try:
            shutil.copyfile(item.path, there.with_suffix(".part"))
            there.with_suffix(".part").replace(there)
        except OSError as error:
            return SendReport(SendStatus.RETRY, "", type(error).__name__)
        return SendReport(SendStatus.STORED)

    def confirm(self, objects: Sequence[Outgoing]) -> list[Confirmation]:
        """Whether the files are there."""
        found = (self._place(item).is_file() for item in objects)
        return [Confirmation(Presence.FOUND if there else Presence.NOT_FOUND) for there in found]

    def test(self) -> list[Check]:
        """Whether the node may write there."""
        ok = os.access(self._folder, os.W_OK)
        return [Check("folder", ok, "can be written to" if ok else "cannot be written to")]

    def close(self) -> None:
        """Nothing is open between calls."""

    def _place(self, item: Outgoing) -> Path:
        return self._folder / f"{item.sop_instance_uid}.dcm"
