"""Deciding: features, scores, calibration, and the detector that holds them."""
