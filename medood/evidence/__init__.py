"""Showing why."""
