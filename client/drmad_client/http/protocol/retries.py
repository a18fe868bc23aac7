"""Decides whether a failed request is sent again, and after which pause."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

_TRANSIENT = frozenset({429, 502, 503, 504})
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 8.0
_LONGEST_RETRY_AFTER_S = 60.0


RequestFailure = httpx.Response | httpx.RequestError


class Retries:
    """Bounds the number of retries and spaces them with exponential backoff.

    Pauses double from a quarter of a second. Jitter spreads the clients of a service that has
    restarted, so that their requests do not arrive at the same moment.
    """

    def __init__(self, limit: int) -> None:
        self._left = limit
        self._pause_s = _FIRST_PAUSE_S

    def pause_s(self, failure: RequestFailure | None) -> float | None:
        """The pause before the next retry, in seconds; None when the request has finally failed.

        `failure` is None where the answer began and broke off.
        """
        retry_after_s = _retry_after_s(failure) if isinstance(failure, httpx.Response) else 0.0
        if self._left <= 0 or retry_after_s > _LONGEST_RETRY_AFTER_S:
            return None
        pause_s = self._pause_s * random.uniform(0.5, 1.0)
        self._left -= 1
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return max(pause_s, retry_after_s)


def is_final(response: httpx.Response) -> bool:
    """Whether the status is not a transient one, so that a retry would bring the same answer."""
    return response.status_code not in _TRANSIENT


def _retry_after_s(response: httpx.Response) -> float:
    """The Retry-After header in seconds, from a number or a date; 0 when absent or unreadable."""
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
