"""From configuration to the engine's document, and from the engine's paths back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moretta import engine
from moretta.config import load, snapshot
from moretta.errors import ConfigurationError
from moretta.testing import Certificates, configuration, make_certificates


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return make_certificates(tmp_path)


def test_the_document_has_the_engines_keys_and_no_other(certificates: Certificates) -> None:
    described = engine.documents()["documents"]
    document = snapshot.build(load(configuration(certificates)), 7).document
    assert set(document) == set(described["snapshot"])
    assert set(document["listeners"][0]) == set(described["snapshot.listeners[]"])
    assert set(document["policy"]) >= set(described["snapshot.policy"])
    assert set(document["policy"]["rules"][0]) == set(described["snapshot.policy.rules[]"])
    assert set(document["resolver"]) == set(described["snapshot.resolver"])
    assert document["generation"] == 7


def test_a_private_key_is_in_the_secrets_and_nowhere_else(certificates: Certificates) -> None:
    built = snapshot.build(load(configuration(certificates)), 1)
    assert "PRIVATE KEY" not in str(built.document)
    assert b"PRIVATE KEY" in built.secrets[built.document["listeners"][0]["key_secret"]]
    assert "PRIVATE KEY" not in repr(built)


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("listeners[1].key_secret", ("listen", "other", "key")),
        ("listeners[0].addresses[2]", ("listen", "main", "address", 2)),
        ("listeners[0].certificate_pem", ("listen", "main", "certificate")),
        ("policy.rules[3].destination[0]", ("policy", "rule", 3, "destination", 0)),
        ("overrides.unknown_capsule", ("profile_overrides", "unknown_capsule")),
        ("limits.max_tunnels", ("limits", "max_tunnels")),
        ("", ()),
    ],
)
def test_a_path_of_the_engine_is_a_key_of_the_file(
    certificates: Certificates, path: str, key: tuple[str | int, ...]
) -> None:
    listen = configuration(certificates)["listen"]["main"]
    loaded = load(configuration(certificates, listen={"main": listen, "other": listen}))
    assert snapshot.key_of(loaded, path) == key


def changed(certificates: Certificates, **change: Any) -> dict[str, Any]:
    document = configuration(certificates)
    document["listen"]["main"] |= change
    return document


def test_files_that_cannot_be_used_are_named_with_their_remedy_all_at_once(
    certificates: Certificates, tmp_path: Path
) -> None:
    document = changed(
        certificates,
        certificate=str(certificates.key),
        key=str(tmp_path / "nowhere.key"),
        templates=["/{target_host}/{target_port}/", "/{target_host}/"],
    )
    with pytest.raises(ConfigurationError) as raised:
        snapshot.build(load(document), 1)
    certificate, key, template = raised.value.problems
    assert (certificate.key, key.key, template.key) == (
        "listen.main.certificate", "listen.main.key", "listen.main.templates[1]",
    )  # fmt: skip
    assert "exchanged" in certificate.remedy
    assert "there is no file" in key.reason
    assert "moretta init" in key.remedy
    assert "target_port" in template.reason


def test_a_key_without_permission_is_one_sentence(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "server.key":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read anything
    with pytest.raises(ConfigurationError, match=r"no permission to read .*server\.key; let this user read it"):
        snapshot.build(load(configuration(certificates)), 1)
