"""Out-of-distribution detection: features, scores, calibration, and the detector that combines them."""
