"""Records of tunnels."""

from __future__ import annotations

import io
import json
import re
from typing import Any

from moretta.observability import TunnelLog, make_logger

OPENED = {
    "version": 1, "event": "record_opened", "tunnel_id": 7, "listener": "main", "client": "127.0.0.1:9", "target_host": "a.test",
    "target_port": 53, "target_address": "192.0.2.1", "protocol": "udp", "rule": "dns", "unix_seconds": 1.0,
}  # fmt: skip
CLOSED = {
    "version": 1, "event": "record_closed", "tunnel_id": 7, "listener": "main", "client": "127.0.0.1:9", "target_host": "a.test", "reason": "idle_timeout", "duration_seconds": 2.0, "unix_seconds": 3.0,
    "counters": {"datagrams_to_target": 1, "bytes_to_target": 2, "datagrams_from_target": 3, "bytes_from_target": 4, "drops": {"stale": 1}},
}  # fmt: skip
REFUSED = {
    "version": 1, "event": "record_refused", "listener": "main", "client": "127.0.0.1:9", "target_host": "a.test", "target_port": 53,
    "reason": "policy_refused", "status": 403, "rule": None, "detail": None, "unix_seconds": 1.0,
}  # fmt: skip


class Written:
    """A log whose lines can be read and whose clock stands still."""

    def __init__(self, level: str = "info", refusals_per_second: int = 2) -> None:
        self.stream = io.StringIO()
        self.now = 0.0
        self.logger, records = make_logger(self.stream, "json", level, colors=False)
        self.log = TunnelLog(records, refusals_per_second=refusals_per_second, clock=lambda: self.now)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


def test_opening_and_closing_are_one_line_each_and_closing_says_what_it_was() -> None:
    written = Written()
    written.log(OPENED)
    written.log(CLOSED)
    opened, closed = written.lines()
    assert (opened["event"], opened["rule"], opened["target_address"]) == ("tunnel.open", "dns", "192.0.2.1")
    assert (closed["event"], closed["reason"], closed["client"], closed["target_host"]) == (
        "tunnel.close", "idle_timeout", "127.0.0.1:9", "a.test",
    )  # fmt: skip
    assert (closed["bytes_from_target"], closed["drops"]) == (4, {"stale": 1})
    assert "version" not in opened


def test_a_worker_that_began_anew_is_an_error() -> None:
    written = Written()
    written.log({"version": 1, "event": "worker_restarted", "worker": 3})
    (line,) = written.lines()
    assert (line["level"], line["event"], line["worker"]) == ("error", "worker.restarted", 3)


def test_no_level_silences_records() -> None:
    written = Written(level="error")
    written.logger.info("of no interest")
    written.log(OPENED)
    assert [line["event"] for line in written.lines()] == ["tunnel.open"]


def test_refusals_beyond_the_rate_are_counted_and_told_with_the_next_one() -> None:
    written = Written(refusals_per_second=2)
    for _ in range(5):
        written.log(REFUSED)
    assert len(written.lines()) == 2
    written.now = 0.5
    written.log({**REFUSED, "reason": "tunnel_limit"})
    assert written.lines()[-1]["not_written"] == {"policy_refused": 3}
    written.log(REFUSED)
    written.log(REFUSED)
    written.log.flush()
    assert written.lines()[-1]["not_written"] == {"policy_refused": 2}
    written.log.flush()
    assert len(written.lines()) == 4


def test_opened_and_closed_records_are_never_sampled() -> None:
    written = Written(refusals_per_second=1)
    for number in range(100):
        written.log({**OPENED, "tunnel_id": number})
        written.log(REFUSED)
    for number in range(100):
        written.log({**CLOSED, "tunnel_id": number})
    events = [line["event"] for line in written.lines()]
    assert (events.count("tunnel.open"), events.count("tunnel.close"), events.count("tunnel.refused")) == (100, 100, 1)


def test_a_terminal_gets_words_and_a_pipe_gets_json() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        _, records = make_logger(stream, "auto", "info", colors=False)
        TunnelLog(records)(OPENED)
    assert list(json.loads(pipe.getvalue()))[:4] == ["timestamp", "level", "event", "tunnel_id"]
    assert re.match(r"\d\d:\d\d:\d\d \[info\] tunnel\.open +tunnel_id=7 ", terminal.getvalue())
    assert "unix_seconds" in pipe.getvalue() and "unix_seconds" not in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()
