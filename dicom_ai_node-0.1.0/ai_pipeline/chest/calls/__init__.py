"""When a finding is called, and what such a call is worth."""
