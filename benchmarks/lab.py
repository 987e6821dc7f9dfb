"""What benchmarks share: a command line, and the configuration of a node between a modality and a PACS."""

import argparse
from collections.abc import Sequence

RESULTS = ("sr", "gsps", "sc", "cleaned")


def command_line(about: str | None) -> argparse.ArgumentParser:
    """A parser whose help shows ``about``, a module's docstring, as it is written."""
    return argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)


def configuration(
    pacs: int,
    *rules: str,
    title: str = "ORTHANC",
    quiet: float = 0,
    results: Sequence[str] = RESULTS,
    confirm: str = "query",
) -> str:
    """Studies are complete after ``quiet`` seconds; ``results`` go to the AE ``title`` on port ``pacs``."""
    named = ", ".join(f'"{result}"' for result in results)
    return f"""
[spool]
minimum_free_mib = 1
[assembly]
quiet_seconds = {quiet}
quiet_seconds_us = {quiet}
[[peers]]
name = "modality"
ae_title = "MODALITY"
may = ["send"]
[[peers]]
name = "pacs"
ae_title = "{title}"
host = "127.0.0.1"
port = {pacs}
may = ["receive"]
confirm = "{confirm}"
results = [{named}]
{"".join(rules)}"""


def rule(pipeline: str, modalities: Sequence[str], more: str = "") -> str:
    """Images of ``modalities`` go through ``pipeline``; ``more``: further lines."""
    named = ", ".join(f'"{modality}"' for modality in modalities)
    return f"""
[[rules]]
name = "{pipeline}"
when = {{ modality = [{named}] }}
max_study_age_days = 0
pipeline = "{pipeline}"
send_to = ["pacs"]
{more}
"""
