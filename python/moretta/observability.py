"""What `moretta serve` writes: its own life, and one record per tunnel opened, refused and closed.

Opened and closed tunnels are written at every level and never shed. Refusals are sampled, because whoever is refused
can ask again as often as he likes; their counters in `Server.stats` are exact, and each written one says how many were
not. No secret and no datagram ever arrives here.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, Literal, TextIO

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from structlog.typing import EventDict, FilteringBoundLogger, Processor

Format = Literal["auto", "json", "console"]

#: Refusals written per second; more are counted and told with the next one that is written.
REFUSALS_PER_SECOND = 20


def make_logger(
    stream: TextIO, log_format: Format, level: str, *, colors: bool
) -> tuple[FilteringBoundLogger, FilteringBoundLogger]:
    """Return the logger for what happens, and the one for records of tunnels, which no level silences."""
    if log_format == "json" or (log_format == "auto" and not stream.isatty()):
        form: list[Processor] = [
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _head_first,
            structlog.processors.JSONRenderer(),
        ]
    else:
        form = [
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.processors.format_exc_info,
            _without_second_time,
            structlog.dev.ConsoleRenderer(colors=colors, sort_keys=False, pad_event_to=16, pad_level=False),
        ]
    processors: list[Processor] = [structlog.processors.add_log_level, *form]

    def logger(lowest: int) -> FilteringBoundLogger:
        bound: FilteringBoundLogger = structlog.wrap_logger(
            structlog.PrintLogger(stream),
            processors=processors,
            wrapper_class=structlog.make_filtering_bound_logger(lowest),
        )
        return bound

    return logger(logging.getLevelNamesMapping()[level.upper()]), logger(logging.NOTSET)


def _head_first(_: object, __: str, event: EventDict) -> EventDict:
    return {**{key: event[key] for key in ("timestamp", "level", "event")}, **event}


def _without_second_time(_: object, __: str, event: EventDict) -> EventDict:
    # When it happened and when it was written are the same to the eye.
    event.pop("unix_seconds", None)
    return event


class TunnelLog:
    """Writes the records that a `Server` hands to `on_record`."""

    def __init__(
        self,
        logger: FilteringBoundLogger,
        *,
        refusals_per_second: int = REFUSALS_PER_SECOND,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._refusals_per_second = refusals_per_second
        self._clock = clock
        self._allowance = float(refusals_per_second)
        self._refilled = clock()
        self._unwritten: Counter[str] = Counter()

    def __call__(self, record: Mapping[str, Any]) -> None:
        """Write one record."""
        fields = {key: value for key, value in record.items() if key not in {"version", "event"} and value is not None}
        match record["event"]:
            case "record_opened":
                self._logger.info("tunnel.open", **fields)
            case "record_closed":
                counters = fields.pop("counters")
                self._logger.info("tunnel.close", **fields, **counters)
            case "record_refused":
                self._refused(fields)
            case "worker_restarted":
                self._logger.error("worker.restarted", **fields)

    def flush(self) -> None:
        """Tell the refusals that were not written; for the end."""
        if self._unwritten:
            self._logger.warning("tunnel.refused", **self._take_unwritten())

    def _refused(self, fields: dict[str, Any]) -> None:
        now = self._clock()
        self._allowance = min(
            self._refusals_per_second, self._allowance + (now - self._refilled) * self._refusals_per_second
        )
        self._refilled = now
        if self._allowance < 1:
            self._unwritten[fields["reason"]] += 1
            return
        self._allowance -= 1
        self._logger.warning("tunnel.refused", **fields, **self._take_unwritten())

    def _take_unwritten(self) -> dict[str, Any]:
        unwritten, self._unwritten = self._unwritten, Counter()
        return {"not_written": dict(unwritten)} if unwritten else {}
