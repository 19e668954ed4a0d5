"""Shifting transformations: negatives that keep the low-level statistics of the domain but lose its meaning."""
