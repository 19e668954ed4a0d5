"""Where scans lie: folders, zip and tar archives, DICOMDIRs, CSV manifests and DICOMweb, inside limits."""
