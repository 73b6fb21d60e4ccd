"""Prepared data sets: making token files from text, opening them as memory maps, and drawing batches in order."""
