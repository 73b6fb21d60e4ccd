"""What the server has done so far, in the text format of Prometheus."""

from __future__ import annotations

from collections import Counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Measures:
    """Counts answers by their status, and tokens."""

    def __init__(self) -> None:
        self._answers: Counter[int] = Counter()
        self._tokens = 0

    def counting(self, app: ASGIApp) -> ASGIApp:
        """Return the application with its answers counted."""

        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            async def count(message: Message) -> None:
                if message["type"] == "http.response.start":
                    self._answers[message["status"]] += 1
                await send(message)

            await app(scope, receive, count)

        return counted

    def generated(self, tokens: int) -> None:
        """Add tokens that were generated."""
        self._tokens += tokens

    def text(self, computed: int, waiting: int) -> str:
        """Return all numbers.

        Args:
            computed: Requests that are computed now.
            waiting: Requests that wait.
        """
        lines = [
            "# HELP quill_responses_total Answers by status.",
            "# TYPE quill_responses_total counter",
            *(f'quill_responses_total{{status="{status}"}} {n}' for status, n in sorted(self._answers.items())),
            "# HELP quill_generated_tokens_total Tokens that were generated.",
            "# TYPE quill_generated_tokens_total counter",
            f"quill_generated_tokens_total {self._tokens}",
            "# HELP quill_requests Requests that are computed, and that wait.",
            "# TYPE quill_requests gauge",
            f'quill_requests{{state="computed"}} {computed}',
            f'quill_requests{{state="waiting"}} {waiting}',
        ]
        return "\n".join(lines) + "\n"
