"""Proving on the user's own machine that the promises of training hold: the work of `quill prove`.

Models are trained and sampled in separate processes by the public command line, and the files that they write are
compared.
"""
