"""Pages without scripts: monitoring, and cleaning a data set."""
