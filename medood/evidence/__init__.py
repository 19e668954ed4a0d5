"""Evidence for a detector's decision: maps and findings."""
