"""The extension of examples/ohif: its own tests, which need node.js and what `make viewers` installed."""

import shutil
import subprocess

import pytest

from tests.wire.viewers.ohif_lab import CHECKOUT

PACKAGE = CHECKOUT / "examples" / "ohif"
pytestmark = pytest.mark.skipif(
    shutil.which("npm") is None or not (PACKAGE / "node_modules").is_dir(),
    reason="needs node.js and examples/ohif/node_modules: `make viewers` installs them",
)


@pytest.mark.parametrize("script", ["types", "test"])
def test_the_package_passes_its_own_tests(script: str) -> None:
    ended = subprocess.run(
        ["npm", "run", "--silent", script],
        cwd=PACKAGE,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-2000:] + ended.stderr[-2000:]


def test_it_stays_small() -> None:
    lines = sum(len(path.read_text().splitlines()) for path in (PACKAGE / "src").glob("*.ts"))
    assert lines <= 600
