"""`python -m quillgpt` is `quill`."""

import sys

from quillgpt.cli import main

sys.exit(main())
