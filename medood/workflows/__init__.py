"""Use cases that cross rooms: training, calibration, the demo and the sensitivity study."""
