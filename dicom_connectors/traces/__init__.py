"""Traces of studies for OpenTelemetry: one study is one trace, from its associations to confirmation."""
