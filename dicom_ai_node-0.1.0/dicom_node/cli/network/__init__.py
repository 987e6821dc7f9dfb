"""Verbs about peers: who they are, whether they answer, which rules take what they send."""
