"""When a failed request is tried again, and after how long."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

_PASSING = frozenset({429, 502, 503, 504})
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 8.0
_LONGEST_ASKED_S = 60.0


RequestFailure = httpx.Response | httpx.RequestError


class Retries:
    """A budget of tries: each failure is answered with a pause, or with None: give up.

    Pauses double from a quarter of a second, with jitter so that many clients of a service that
    comes back do not knock at once.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._pause_s = _FIRST_PAUSE_S

    def pause_s(self, failure: RequestFailure | None) -> float | None:
        """`failure` is None where an answer came, but not to its end."""
        asked_s = _retry_after_s(failure) if isinstance(failure, httpx.Response) else 0.0
        if self._left <= 0 or asked_s > _LONGEST_ASKED_S:
            return None
        pause_s = self._pause_s * random.uniform(0.5, 1.0)
        self._left -= 1
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return max(pause_s, asked_s)


def is_final(response: httpx.Response) -> bool:
    """Whether the service has answered, and would not answer otherwise in a moment."""
    return response.status_code not in _PASSING


def _retry_after_s(response: httpx.Response) -> float:
    """Retry-After in seconds, given as a number or as a date; 0 when absent or unreadable."""
    value = response.headers.get("retry-after", "")
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())
