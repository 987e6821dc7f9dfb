"""The console: pages for people with a browser, in a separate process. All logic is in ``services``."""
