"""Audit reports of a run: PDF, HTML page and DICOM objects."""
