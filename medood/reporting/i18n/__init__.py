"""Texts of the reports in each language."""
