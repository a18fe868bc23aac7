"""Compares entity tags as RFC 9110 states it for If-None-Match."""

from __future__ import annotations

import re

_TAG = re.compile(r'\s*(?:W/)?("[^"]*")\s*(?:,|$)')


def matches(header: str | None, etag: str) -> bool:
    """Whether the header names this entity tag: alone, in a list, as a weak one, or by *.

    A proxy that compresses answers makes their entity tags weak.
    """
    if header is None:
        return False
    return header.strip() == "*" or etag in _TAG.findall(header)
