"""``python -m ai_pipeline`` is ``ai-pipeline``."""

from ai_pipeline.cli import main

main()
