"""Identifiers: a prefix and a ULID, so that sorting by id sorts by time of creation."""

from __future__ import annotations

import secrets
import time

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_id(prefix: str) -> str:
    """A new id, such as job_01JD7X8Z9T3V5W6Y7A8B9C0D1E.

    48 bits of milliseconds and 80 random bits, in Crockford's base 32 (github.com/ulid/spec).
    """
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    digits = (_CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))
    return f"{prefix}_{''.join(digits)}"
