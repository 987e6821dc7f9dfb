"""``ai-pipeline serve``: the service that cleans images, over HTTP."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ai_pipeline import extras
from ai_pipeline.cli.terminal import EXIT_CONFIG
from ai_pipeline.distribution import to_install
from ai_pipeline.errors import PipelineError


def serve(
    config: Annotated[
        Path | None,
        typer.Option(help="TOML file of settings (docs/connect/serve.md); AI_PIPELINE_SERVE_… win over it."),
    ] = None,
) -> None:
    """Clean images of burned-in text over HTTP, for other programs: DICOM, PNG and JPEG, STOW-RS, Karnak.

    Listens on this machine only (127.0.0.1:8000) unless the settings say otherwise. Not for diagnostic use.
    """
    needed = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")
    if lacking := extras.missing() or [name for name in needed if find_spec(name) is None]:
        text = lacking if isinstance(lacking, str) else f"{', '.join(lacking)} not installed"
        typer.echo(f"{text.partition(': ')[0]}: {to_install('ai,serve')}", err=True)
        raise typer.Exit(EXIT_CONFIG)
    from ai_pipeline.serve.server import serve as run_server
    from ai_pipeline.serve.settings import load_settings

    try:
        run_server(load_settings(config, os.environ))
    except (PipelineError, OSError) as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(EXIT_CONFIG) from error
