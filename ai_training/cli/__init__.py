"""The verbs of ``ai-pipeline`` that this package adds."""
