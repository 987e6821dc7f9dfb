"""Programs of others, and another node, as a vendor's AI server: each end to end."""

import base64
import io
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from tests.ct_lab import ct_slices, program, segments_and_reports
from tests.node_lab import Node, rule, running, site_config, store
from tests.pacs_lab import Pacs, run_pacs
from tests.ports import free_port
from tests.vendor_lab import remote_rule, vendor_peer
from tests.wire.orthanc_lab import needs_orthanc, start_orthanc
from tests.wire.test_remote import stored

pytestmark = pytest.mark.timeout(300)
SIDE = 32
PIXELS = np.kron(np.arange(16, dtype="<u2").reshape(4, 4) * 60, np.ones((8, 8), np.uint16)).astype("<u2")
MODIFIES = """#!/bin/sh
set -e
for image in "$1"/*; do
    dcmodify -nb -gin -gse -m ImageType='DERIVED\\SECONDARY\\AXIAL' -m Manufacturer='Vendor Inc' \\
        -mf PixelData={pixels} "$image"
done
storescu -xe -aet VENDOR -aec AINODE 127.0.0.1 {port} "$1"/*
"""
LUA = """
local answered = {{}}
function OnStableStudy(study, tags, metadata)
  if answered[study] then return end
  answered[study] = true
  for _, one in pairs(ParseJson(RestApiGet('/studies/' .. study .. '/instances'))) do
    local changed = {{
      Replace = {{
        ImageType = 'DERIVED\\\\SECONDARY\\\\AXIAL', Manufacturer = 'Vendor Inc',
        PixelData = 'data:image/png;base64,{pixels}'
      }},
      Force = true
    }}
    local made = RestApiPost('/instances/' .. one['ID'] .. '/modify', DumpJson(changed, true))
    local known = ParseJson(RestApiPost('/instances', made))
    RestApiPost('/modalities/ainode/store', known['ID'])
  end
end
"""


class Server(Pacs):
    """A vendor's server that another program is: only its port and AE title count."""


def between(folder: Path, pacs: Pacs, port: int) -> Node:
    """A node between this PACS and a vendor on this port."""
    vendor = vendor_peer(Server(port, "VENDOR"))
    rules = remote_rule(options="deadline = 2") + vendor
    return Node(folder, site_config(pacs.port, rules, ("image", "seg", "sr"), 1, senders=("CT1",)))


def delivered(node: Node, pacs: Pacs, images: Sequence[Dataset]) -> list[Dataset]:
    """What the PACS gets for a study."""
    assert store(node.port, images, "CT1") == [0] * len(images)
    node.wait_for(["delivered", "failed"])
    results = stored(pacs)
    assert {(one.PatientID, one.StudyInstanceUID) for one in results} == {
        (images[0].PatientID, images[0].StudyInstanceUID)
    }
    return results


@pytest.mark.debian("dcmtk")
def test_dcmtk_as_a_vendor(tmp_path: Path) -> None:
    """storescp takes the study, dcmodify gives it other pixels, storescu sends it back."""
    images, pacs, port, folder = ct_slices("dcmtk", 2, side=SIDE), Pacs(), free_port(), tmp_path / "vendor"
    folder.mkdir()
    pixels, script = tmp_path / "pixels", tmp_path / "answer.sh"
    pixels.write_bytes(PIXELS.tobytes())
    with run_pacs(pacs):
        node = between(tmp_path / "node", pacs, port)
        script.write_text(MODIFIES.format(pixels=pixels, port=node.port))
        script.chmod(0o700)
        words = ["-od", str(folder), "-ss", "study", "--eostudy-timeout", "1", "-xcs", f"{script} #p"]
        with subprocess.Popen(["storescp", "-aet", "VENDOR", *words, str(port)]) as storescp, running(node):
            try:
                results = delivered(node, pacs, images)
            finally:
                storescp.kill()
    assert [str(one.Modality) for one in results] == ["CT", "CT"]
    assert {one.PixelData for one in results} == {PIXELS.tobytes()}


@needs_orthanc
def test_orthanc_as_a_vendor(tmp_path: Path) -> None:
    """Its script modifies each image of a study that is stable, and sends it back."""
    images, pacs, script = ct_slices("orthanc", 2, side=SIDE), Pacs(), tmp_path / "answer.lua"
    png = io.BytesIO()
    Image.fromarray(PIXELS).save(png, "png")
    script.write_text(LUA.format(pixels=base64.b64encode(png.getvalue()).decode()))
    port = free_port()
    with run_pacs(pacs):
        node = between(tmp_path / "node", pacs, port)
        orthanc = start_orthanc(
            tmp_path / "orthanc",
            ae_title="VENDOR",
            lua=[script],
            modalities={"ainode": ("AINODE", "127.0.0.1", node.port)},
            config={"DicomPort": port, "StableAge": 2, "OverwriteInstances": False},
        )
        with orthanc, running(node):
            results = delivered(node, pacs, images)
    assert [str(one.Modality) for one in results] == ["CT", "CT"]


def test_another_node_as_a_vendor(tmp_path: Path) -> None:
    """Its rule runs a program on the study, and its results come back as an answer."""
    images, pacs = ct_slices("nodes", 2, side=SIDE), Pacs()
    script = program(tmp_path, segments_and_reports())
    command = f'command = ["{sys.executable}", "{script}", "{{input}}", "{{output}}"]'
    theirs = rule("command", 'modality = "CT"', f'{command}, model = "theirs", version = "1"')
    with run_pacs(pacs):
        ours = between(tmp_path / "ours", pacs, port := free_port())
        of_vendor = site_config(
            ours.port, theirs, ("seg",), senders=(), ae_title="AINODE", of_pacs='confirm = "none"'
        )
        vendor = Node(tmp_path / "theirs", of_vendor, port=port)
        config = vendor.config.read_text().replace("[node]", '[node]\nae_title = "VENDOR"')
        vendor.config.write_text(config)
        with running(vendor), running(ours):
            results = delivered(ours, pacs, images)
    assert [str(one.Modality) for one in results] == ["SEG"]
