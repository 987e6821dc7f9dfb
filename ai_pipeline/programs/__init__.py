"""Pipelines that are programs: a command or a container that reads a folder of DICOM and writes a folder."""
