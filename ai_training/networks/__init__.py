"""Architectures and losses that are needed for training only: what ships of them runs as ONNX."""
