"""mercure's test module and an application of MONAI's App SDK, unchanged: tried, and into a real Orthanc.

Neither is ours to ship. ``MERCURE_TESTMODULE`` names the file ``testmodule.py`` of
github.com/mercure-imaging/mercure-testmodule; ``MONAI_DEPLOY_ENV`` names a Python environment as
docs/bring-an-ai.md makes it.
"""

import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from dicom_node.base.dicom.uids import is_own_result
from tests.ct_lab import ct_slices
from tests.forked import run_forked
from tests.modality import part_10
from tests.node_lab import Node, rule, running, site_config, store
from tests.validators import dciodvfy_errors
from tests.wire.orthanc_lab import start_orthanc

TESTMODULE, MONAI = "MERCURE_TESTMODULE", "MONAI_DEPLOY_ENV"
NAME = "Yamada^Tarou=山田^太郎"
APPLICATION = """
from pathlib import Path
import numpy as np
from pydicom.sr.codedict import codes
from monai.deploy.conditions import CountCondition
from monai.deploy.core import Application, Image, Operator
from monai.deploy.operators.dicom_data_loader_operator import DICOMDataLoaderOperator
from monai.deploy.operators.dicom_seg_writer_operator import (
    DICOMSegmentationWriterOperator, SegmentDescription,
)
from monai.deploy.operators.dicom_series_selector_operator import DICOMSeriesSelectorOperator
from monai.deploy.operators.dicom_series_to_volume_operator import DICOMSeriesToVolumeOperator
from monai.deploy.operators.dicom_text_sr_writer_operator import (
    DICOMTextSRWriterOperator, EquipmentInfo, ModelInfo,
)

class Threshold(Operator):
    def setup(self, spec):
        spec.input("image")
        spec.output("mask")
        spec.output("text")

    def compute(self, op_input, op_output, context):
        image = op_input.receive("image")
        values = image.asnumpy()
        mask = (values > np.percentile(values, 80)).astype(np.uint8)
        op_output.emit(Image(mask, image.metadata()), "mask")
        op_output.emit(f"{int(mask.sum())} bright voxels", "text")

class App(Application):
    def compose(self):
        context = Application.init_app_context(self.argv)
        source, target = Path(context.input_path), Path(context.output_path)
        load = DICOMDataLoaderOperator(self, CountCondition(self, 1), input_folder=source, name="load")
        select = DICOMSeriesSelectorOperator(self, name="select")
        volume = DICOMSeriesToVolumeOperator(self, name="volume")
        threshold = Threshold(self, name="threshold")
        described = [SegmentDescription("Bright", codes.SCT.Tissue, codes.SCT.Tissue, "threshold", "1.0")]
        seg = DICOMSegmentationWriterOperator(
            self, segment_descriptions=described, output_folder=target, name="seg"
        )
        report = DICOMTextSRWriterOperator(
            self, copy_tags=True, model_info=ModelInfo("Example", "threshold", "1.0", "0.0.1"),
            equipment_info=EquipmentInfo(), output_folder=target, name="report",
        )
        series = {("study_selected_series_list", "study_selected_series_list")}
        self.add_flow(load, select, {("dicom_study_list", "dicom_study_list")})
        self.add_flow(select, volume, series)
        self.add_flow(volume, threshold, {("image", "image")})
        self.add_flow(threshold, seg, {("mask", "seg_image")})
        self.add_flow(select, seg, series)
        self.add_flow(threshold, report, {("text", "text")})
        self.add_flow(select, report, series)

App().run()
"""
"""An application as users of the SDK write them: all that reads and writes DICOM is the SDK's."""
MANIFESTS = {  # as holoscan-cli 4.2.0 writes them
    "app.json": {
        "apiVersion": "1.0.0",
        "command": '["python3", "/opt/holoscan/app"]',
        "environment": {
            "HOLOSCAN_APPLICATION": "/opt/holoscan/app",
            "HOLOSCAN_INPUT_PATH": "/var/holoscan/input",
            "HOLOSCAN_OUTPUT_PATH": "/var/holoscan/output",
            "HOLOSCAN_WORKDIR": "/var/holoscan",
            "HOLOSCAN_MODEL_PATH": "/opt/holoscan/models",
            "HOLOSCAN_CONFIG_PATH": "/var/holoscan/app.yaml",
        },
        "input": {"path": "/var/holoscan/input", "formats": None},
        "output": {"path": "/var/holoscan/output", "formats": None},
        "liveness": None,
        "readiness": None,
        "sdk": "monai-deploy",
        "sdkVersion": "4.0.0",
        "timeout": 0,
        "version": "1.0",
        "workingDirectory": "/var/holoscan",
    },
    "pkg.json": {
        "apiVersion": "1.0.0",
        "applicationRoot": "/opt/holoscan/app",
        "modelRoot": "/opt/holoscan/models",
        "models": {},
        "resources": {"cpu": 1, "gpu": 0, "memory": "1Gi"},
        "version": "1.0",
    },
}
Options = dict[str, Any]


def needed(variable: str) -> Path:
    """The path that the environment variable names; without it the test is skipped."""
    if not (named := os.environ.get(variable)):
        pytest.skip(f"needs a program of others, which {variable} names")
    return Path(named)


def mercure_module(_folder: Path) -> Options:
    """The options of mercure's test module."""
    script = needed(TESTMODULE)
    command = [sys.executable, str(script), "{input}", "{output}"]
    return {"command": command, "layout": "mercure", "settings": {"sigma": 3}}


def monai_package(folder: Path) -> Options:
    """The options of a package of the application, unpacked to a folder with its environment."""
    env = needed(MONAI)
    root = folder / "package"
    manifests, app = root / "etc" / "holoscan", root / "opt" / "holoscan" / "app"
    for made in (manifests, app):
        made.mkdir(parents=True)
    for name, manifest in MANIFESTS.items():
        (manifests / name).write_text(json.dumps(manifest))
    (app / "__main__.py").write_text(APPLICATION)
    for name in ("bin", "lib", "pyvenv.cfg"):
        (root / name).symlink_to(env / name)
    [runtime] = env.glob("lib/python3*/site-packages/nvidia/cuda_runtime/lib")
    return {"package": str(root), "layout": "map", "environment": {"LD_LIBRARY_PATH": str(runtime)}}


Program = Callable[[Path], Options]
PROGRAMS: dict[str, tuple[Program, list[str]]] = {
    "mercure": (mercure_module, ["CT"] * 4),
    "MONAI": (monai_package, ["SEG", "SR"]),
}


def slices() -> list[Dataset]:
    images = ct_slices("tried", 4)
    for image in images:
        image.PatientName = NAME
        image.SpecificCharacterSet = "ISO_IR 192"
    return images


def looked_at(folder: Path, objects: list[bytes], modalities: list[str]) -> None:
    """Each object is of the patient and of the node, valid, and of the wanted modality."""
    read = [dcmread(io.BytesIO(data)) for data in objects]
    assert sorted(item.Modality for item in read) == modalities
    assert {str(item.PatientName) for item in read} == {NAME}
    assert all(is_own_result(item) for item in read)
    for number, data in enumerate(objects):
        path = folder / f"{number}.dcm"
        path.write_bytes(data)
        assert dciodvfy_errors(path) == []


@pytest.mark.debian("dicom3tools")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_of_others_is_tried_unchanged(tmp_path: Path, name: str) -> None:
    program, modalities = PROGRAMS[name]
    chosen = program(tmp_path)
    study = tmp_path / "study"
    study.mkdir()
    for number, image in enumerate(slices()):
        (study / f"{number}.dcm").write_bytes(part_10(image))
    words = [str(chosen["package"])] if "package" in chosen else [" ".join(chosen["command"])]
    words += ["--study", str(study), "--out", str(tmp_path / "out"), "--layout", chosen["layout"], "--json"]
    for key, value in (chosen.get("environment", {}) | {"": ""}).items():
        words += ["--option", f"environment.{key}={json.dumps(value)}"] if key else []
    done = run_forked("dicom_node", "programs", "try", *words)
    assert done.returncode == 0, (done.stdout, done.stderr)
    rows = json.loads(done.stdout)
    assert {row["verdict"] for row in rows} == {"sent"}
    assert all(row["repaired"] for row in rows), "each of them has an error that the node owns"
    looked_at(tmp_path, [(tmp_path / "out" / row["file"]).read_bytes() for row in rows], modalities)


def toml(value: object) -> str:
    """A value of JSON as one of TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


@pytest.mark.debian("orthanc", "dicom3tools")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_of_others_runs_unchanged_into_orthanc(tmp_path: Path, name: str) -> None:
    program, modalities = PROGRAMS[name]
    chosen = {"model": name, "version": "1"} | program(tmp_path)
    options = ", ".join(f"{key} = {toml(value)}" for key, value in chosen.items())
    rules = rule("command", 'modality = "CT"', options, name="tried")
    with start_orthanc(tmp_path / "orthanc") as orthanc:
        results = ("sr", "seg", "image")
        config = site_config(
            orthanc.dicom_port, rules, results=results, senders=("CT1",), ae_title=orthanc.ae_title
        )
        with running(Node(tmp_path, config)) as node:
            assert store(node.port, slices(), "CT1") == [0x0000] * 4
            node.wait_for(["delivered"], seconds=300)
        objects = [orthanc.fetch(uid) for uid in orthanc.instances()]
        looked_at(tmp_path, objects, modalities)
