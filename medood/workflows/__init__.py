"""Workflows that combine several packages: training, calibration, the demo and the sensitivity study."""
