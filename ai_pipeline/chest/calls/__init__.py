"""When the model calls a finding present or absent, and how reliable such a call is."""
