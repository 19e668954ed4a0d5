"""Sources of scans, read within limits: folders, zip and tar archives, DICOMDIRs, CSV manifests and DICOMweb."""
