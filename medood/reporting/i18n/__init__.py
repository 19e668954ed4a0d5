"""Every sentence of a report, in each language."""
