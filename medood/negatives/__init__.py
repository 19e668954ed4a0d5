"""Shifting transformations: pictures that keep the low-level statistics of the domain and lose its meaning."""
