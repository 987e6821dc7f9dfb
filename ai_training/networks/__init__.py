"""Architectures and losses for training only; the exported networks run as ONNX."""
