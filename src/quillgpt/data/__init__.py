"""Prepared data sets: token files made from text, opened without reading them into memory, and drawn from in order."""
