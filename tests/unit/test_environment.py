"""Environment variables."""

from __future__ import annotations

from moretta import environment


def test_a_variable_names_a_key_by_its_sections() -> None:
    found = environment.settings(
        {
            "MORETTA_LIMITS__MAX_TUNNELS": "1",
            "MORETTA_PROFILE": "interop",
            "MORETTA_CONFIG": "x.toml",
            "MORETTA_GATEWAY": "https://x",
            "MORETTA_CA": "ca.pem",
            "PATH": "/bin",
        }
    )
    assert found == {
        "MORETTA_LIMITS__MAX_TUNNELS": ("limits", "max_tunnels"),
        "MORETTA_PROFILE": ("profile",),
    }


def test_the_process_environment_is_what_is_read() -> None:
    assert "PATH" in environment.variables()
