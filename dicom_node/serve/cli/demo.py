"""``dicom-node demo``: the whole way, with real images, on this machine."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dicom_node.base.errors import ExitCode
from dicom_node.base.kinds import ResultKind
from dicom_node.serve.cli.output import say

if TYPE_CHECKING:
    from dicom_node.people.demo.run import DemoResult

app = typer.Typer()


@app.command(epilog="Example: dicom-node demo --input my-dicom-files --out demo-output")
def demo(
    *,
    own: Annotated[
        Path | None,
        typer.Option("--input", metavar="DIR", exists=True, file_okay=False, help="Your own DICOM files."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where results go.")] = Path(
        "demo-output"
    ),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Forget what earlier runs stored in the demonstration's PACS.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Fetch no public chest X-ray (0.7 MB).")] = False,
) -> int:
    """Start a PACS and a node, send ultrasound and a chest X-ray, and show what came back."""
    from dicom_node.people.demo import run

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # PACS and node are stopped then, too

    shown = run.run(out, own=own, fresh=fresh, offline=offline, say=say)
    for item in shown:
        _print_study(item)
    say("")
    say(f"Everything is in {out}/ (summary.json, pacs/*.dcm, previews). Not for diagnostic use.")
    # Results are in the PACS, or the pipeline had a reason not to apply.
    ended_well = all(item.state in ("delivered", "not_applicable") for item in shown)
    return ExitCode.OK if ended_well else ExitCode.FAILED


def _print_study(item: DemoResult) -> None:
    from dicom_node.results.sr import stated

    kinds = [result.kind for result in item.results]
    back = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) or "nothing"
    reports = [result.path for result in item.results if result.kind == ResultKind.SR]
    lines = [("state", f"{item.state}{f' ({item.reason})' if item.reason else ''}")]
    lines += [("result", text) for path in reports for text in stated(path).short_result]
    lines.append(("came back", f"{back}; the PACS holds {len(item.objects)} object(s) of the study"))
    if item.seconds_to_pacs is not None:
        work = f"{item.quiet_seconds:g} s quiet time, {item.seconds_to_pacs - item.quiet_seconds:.1f} s work"
        lines.append(("took", f"{item.seconds_to_pacs:.1f} s to the PACS: {work}"))
    if item.known_before:
        lines.append(("again", "the node knew these objects: nothing was made or sent a second time"))
    lines += [("not sent", text) for text in item.refused]
    say("")
    say(f"{item.folder.name} {item.study.origin}", bold=True)
    for label, text in (*lines, ("files", f"{item.folder}/pacs")):
        say(f"  {label:<10} {text}")
