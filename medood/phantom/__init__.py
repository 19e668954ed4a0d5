"""Synthetic scans for the demo and tests: procedural chest radiographs and outliers, as DICOM."""
