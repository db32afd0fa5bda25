"""Figures, tables and reports: a measurement in, Axes or a table out. Nothing here computes a result."""
