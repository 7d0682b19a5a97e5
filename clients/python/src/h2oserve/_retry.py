"""When a call that failed is made again."""
from __future__ import annotations

import dataclasses

from ._errors import Busy, H2OServeError, Unavailable


@dataclasses.dataclass(frozen=True)
class Retry:
    """How long a client puts up with a server that is away or full.

    Calls are made again after `UNAVAILABLE` and, while no token has come of them, after `RESOURCE_EXHAUSTED`.  Waits
    double from `first_wait` to `longest_wait`, are spread by a quarter to both sides, and are never shorter than the
    server's retry-after-ms.
    """

    patience: float = 30.0
    """Seconds without a token after which the error is raised; 0: at once."""
    first_wait: float = 0.25
    longest_wait: float = 4.0
    resume: bool = True
    """Whether a stream that broke goes on behind its last token.  False: Unavailable is raised."""

    def wait(self, failures: int, draw: float, told: float | None) -> float:
        """Seconds to wait after so many failures in a row; `draw` is in [0, 1), `told` the server's wish."""
        wait: float = min(self.first_wait * 2.0 ** min(failures, 20), self.longest_wait)
        # Calls that were refused together do not come back together.
        return max(wait * (0.75 + 0.5 * draw), (told or 0) * (1 + 0.25 * draw))


NO_RETRY = Retry(patience=0)


class Attempts:
    """The calls that are made for one purpose.  `now` counts seconds; `deadline` is on the same clock."""

    def __init__(self, retry: Retry, deadline: float | None) -> None:
        self._retry, self._deadline = retry, deadline
        self._failures = 0
        self._failing_since: float | None = None

    def succeeded(self) -> None:
        self._failures, self._failing_since = 0, None

    def wait_after(self, error: H2OServeError, now: float, draw: float) -> float | None:
        """Seconds until the next call; None: the error stands."""
        if not _may_pass(error):
            return None
        if self._failing_since is None:
            self._failing_since = now
        wait = self._retry.wait(self._failures, draw, error.retry_after)
        self._failures += 1
        if now + wait > self._failing_since + self._retry.patience:
            return None
        if self._deadline is not None and now + wait >= self._deadline:
            return None
        return wait


def _may_pass(error: H2OServeError) -> bool:
    # A message that is larger than the server takes has the code of a full queue.
    return isinstance(error, Unavailable) or (
        isinstance(error, Busy) and "larger than" not in error.message)
