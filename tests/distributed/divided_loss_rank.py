"""`quill` in one of several processes, with every loss in parts of 21 tokens."""

from __future__ import annotations

import sys

import quillgpt.cli
from quillgpt.model import loss

loss.MANY_LOGITS, loss.TOKENS_AT_ONCE = 0, 21

sys.exit(quillgpt.cli.main())
