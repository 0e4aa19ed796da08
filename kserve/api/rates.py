"""How often a caller may ask: a bucket for each, which fills again as time goes by.

Own code because it is one formula: the known libraries keep a time stamp for every hit, and cost more than a
whole request does here.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from kserve.errors import RateLimited

_CALLERS = 100_000  # remembered; the one that was quiet longest is forgotten, and has a full bucket again


@dataclass
class _Bucket:
    left: float
    at: float


class Rates:
    """Texts a minute for each caller; up to a minute's worth may come at once."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, caller: str, texts: int, per_minute: int | None = None) -> int:
        """Count texts of a caller, a minute's worth at most; gives how many are left for now.

        Raises:
            RateLimited: too many for now; it says when there is room.
        """
        limit = per_minute or self.per_minute
        cost = min(texts, limit)
        now = self._clock()
        bucket = self._buckets.setdefault(caller, _Bucket(limit, now))
        self._buckets.move_to_end(caller)
        bucket.left = min(bucket.left + (now - bucket.at) * limit / 60, limit)
        bucket.at = now
        if bucket.left < cost:
            wait = math.ceil((cost - bucket.left) * 60 / limit)
            raise RateLimited(f"Slowdown: {limit} per 1 minute", max(wait, 1), limit)
        bucket.left -= cost
        if len(self._buckets) > _CALLERS:
            self._buckets.popitem(last=False)
        return int(bucket.left)
