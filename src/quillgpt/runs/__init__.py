"""Runs as their files tell of them: found, followed, listed and compared; without torch, and nothing is written.

Whatever is missing, damaged, half written or of unexpected size is passed over: a look at a run never fails because of
what is in its files.
"""
