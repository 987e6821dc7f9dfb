"""Networks of others, and bundles of MONAI, become ONNX with a card; ours become bundles."""
