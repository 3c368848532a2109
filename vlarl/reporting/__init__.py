"""Metric sinks, progress, plots, videos, the HTML report."""
