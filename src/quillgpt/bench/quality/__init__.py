"""The quality of what `own_text` learns within minutes: bits per byte on a held-out part of many texts."""
