"""Made-up scans for demo and tests: procedural chest radiographs and what does not belong among them, as DICOM."""
