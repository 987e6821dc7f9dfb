"""Studies of chest X-ray classification: networks trained alike but for one thing, and compared by pairs."""
