"""Proving, on a person's own machine, that the promises of training hold: what `quill prove` does.

Everything is trained and sampled by processes of their own, through the public command line; what is compared are the
files that they wrote.
"""
