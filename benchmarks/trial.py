"""How long until the result of a picture that is dropped at the console is on the page, in a browser.

Run it on a quiet machine: ``python -m benchmarks.trial --data /path/of/the/image/sets``. It drops films and
ultrasound pictures one after the other at a fresh node without a PACS, and prints the seconds of each, and
the median and the longest of each modality; the first of one, which also warms the node up, is left out.
"""

import statistics
import tempfile
from itertools import islice
from pathlib import Path

from benchmarks.lab import command_line
from tests.browser_lab import debian_chromium
from tests.trial_lab import fresh_site

SETS = {"DX PA": "cxr_nih", "US": "us_ovarian"}


def main() -> None:
    """Drop the pictures, and print the seconds."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the public image sets")
    parser.add_argument("--pictures", type=int, default=10, help="of each modality")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        debian_chromium() as chromium,
        fresh_site(Path(folder), chromium) as site,
    ):
        for shows, name in SETS.items():
            files = islice(sorted((given.data / name / "images").iterdir()), 0, None, 20)
            seconds = []
            for file in islice(files, given.pictures + 1):
                seconds.append(site.drop(shows, file.name, file.read_bytes()))
                print(f"{shows} {file.name}: {seconds[-1]:.1f} s")
            warm = seconds[1:]
            print(f"{shows}: median {statistics.median(warm):.1f} s, longest {max(warm):.1f} s")


if __name__ == "__main__":
    main()
