"""Code that all verbs share: options and printing."""
