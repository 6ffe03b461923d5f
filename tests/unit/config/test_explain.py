"""The nearest valid key."""

from __future__ import annotations

import pytest

from moretta.config.explain import KeyPath, dotted, nearest


@pytest.mark.parametrize(
    ("key", "words"),
    [
        (("listen", "main", "cert"), "certificate"),
        (("listen", "main", "addresses"), "address"),
        (("policy", "rules"), "rule"),
        (("policy", "rule", 3, "port"), "ports"),
        (("limits", "tunnel_queue_kb"), "tunnel_queue_bytes"),
        (("nameservers",), "resolver.nameservers"),
        (("listen", "main", "limits"), "limits"),
        (("log", "zzzzzz"), "format, level"),
        (("engine", "worker"), "workers"),
    ],
)
def test_a_wrong_key_is_answered_with_the_nearest_right_one(key: KeyPath, words: str) -> None:
    assert words in nearest(key)


def test_a_path_is_written_as_people_do() -> None:
    assert dotted(("policy", "rule", 0, "ports", 1)) == "policy.rule[0].ports[1]"
    assert dotted(()) == ""
