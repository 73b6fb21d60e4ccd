"""The names of a run's files; docs/formats.md describes their content."""

from __future__ import annotations

from typing import Final

CONFIG: Final = "config.toml"
METRICS: Final = "metrics.jsonl"
SUMMARY: Final = "summary.json"
CHECKPOINTS: Final = "checkpoints"
PROVENANCE: Final = "provenance.json"
REPORT: Final = "report.html"

LOCK: Final = ".lock"
"""Locked while a process trains in the folder."""

HOLDER: Final = ".running"
"""Names the process that holds the lock. To decide who trains, it is read only while the lock is held, so a note that a
killed process left misleads nobody. On disks that cannot lock, it stands for the lock."""
