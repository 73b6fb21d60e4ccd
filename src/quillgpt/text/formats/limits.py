"""What a file that others made may cost: sizes, numbers, depths and times, beyond what documents of people have."""

from __future__ import annotations

MOST_BYTES_AT_ONCE = 100_000_000
"""The largest file that is read as a whole: a chat, a message, a Word document."""

MOST_PAGE_BYTES = 32_000_000
"""The largest web page: its tree takes some twenty times as much memory."""

MOST_ENTRIES = 20_000
"""Files in an archive."""

MOST_PART_BYTES = 16_000_000
"""The largest chapter of an e-book, or part of a Word document, when it is unpacked."""

MOST_UNPACKED_BYTES = 64_000_000
"""All text of an archive, and every part that a Word document is read with, when they are unpacked."""

MOST_RATIO = 200
"""The largest ratio of unpacked to packed bytes of a part; text reaches about ten."""

LEAST_SUSPECT_BYTES = 1_000_000
"""Parts that unpack to less may have any ratio."""

MOST_DEPTH = 500
"""Elements within each other in XML or HTML."""

MOST_ELEMENTS = 2_000_000
"""Elements of a chapter or a page."""

MOST_MESSAGE_BYTES = 50_000_000
"""The largest message of a mailbox; larger ones are left out, and counted."""

MOST_PARTS = 1000
"""Parts of a message."""

MOST_SECONDS = 8.0
"""Time of a processor for one file."""

SECONDS_PER_PAGE = 0.02
"""Time that each page of a PDF document adds to `MOST_SECONDS`."""

SECONDS_PER_MESSAGE = 0.05
"""Time that each message of a mailbox adds to `MOST_SECONDS`."""

MOST_PAGES = 20_000
"""Pages of a PDF document."""

MOST_MEMORY_BYTES = 900_000_000
"""Memory of the process that reads files."""
