"""Evaluation of a detector against data sets and trivial baselines."""
