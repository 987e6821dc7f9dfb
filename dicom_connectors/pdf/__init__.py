"""The summary page as PDF, by reportlab, for systems that accept documents."""
