"""Slows down callers who try keys, and logs them."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

FREE_ATTEMPTS = 10
"""Failed attempts of an address that are answered at once, in a window."""
WINDOW_S = 60.0
AT_ONCE = 5
"""Further failed attempts of an address that wait side by side; others wait for them."""
_MOST_ADDRESSES = 10_000


@dataclass
class _Window:
    began_at: float
    count: int = 0
    turn: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))


class FailedAttempts:
    """Delays the refusal of keys, by address; a key that is valid is never delayed.

    An address has `FREE_ATTEMPTS` a minute, then `AT_ONCE` for each delay. Each API process counts
    for itself.
    """

    def __init__(self, delay_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            delay_s: delay of a refusal after the free attempts; 0 delays nothing.
        """
        self._delay_s = delay_s
        self._clock = clock
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    async def note(self, address: str) -> None:
        """Counts a failed attempt, and returns when it may be answered."""
        network = _network(address)
        window = self._windows.get(network)
        if window is None or self._clock() - window.began_at > WINDOW_S:
            window = self._windows[network] = _Window(self._clock())
        self._windows.move_to_end(network)
        if len(self._windows) > _MOST_ADDRESSES:
            self._windows.popitem(last=False)
        window.count += 1
        if window.count <= FREE_ATTEMPTS or not self._delay_s:
            return
        if window.count == FREE_ATTEMPTS + 1 or window.count % 1000 == 0:
            logger.warning(
                "%s sent %d unknown keys within %.0f s; refusals to it are delayed by %g s",
                *(network, window.count, self._clock() - window.began_at, self._delay_s),
                extra={"action": "keys_tried", "address": network, "attempts": window.count},
            )
        async with window.turn:
            await asyncio.sleep(self._delay_s)


def _network(address: str) -> str:
    """The address, or the /64 of an IPv6 address, of which one caller has as many as it likes."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:  # a socket has none
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)
