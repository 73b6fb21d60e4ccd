"""A run as one page that anybody can open: curves, samples, settings, machine and data."""
