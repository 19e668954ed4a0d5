"""For people: the audit report."""
