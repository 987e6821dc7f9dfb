"""The console: pages for people with a browser, in a process of its own. All logic is in ``services``."""
