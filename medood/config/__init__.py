"""Settings: the typed schema of a run, its loader, and the files that are part of the package."""
