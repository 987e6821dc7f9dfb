"""``python -m dicom_node`` does the same as ``dicom-node``."""

from dicom_node.serve.cli import main

main()
