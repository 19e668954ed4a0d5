"""Archives, whole: what was found, what was decided, one row each."""
