"""Throwaway authorities, and files that appear whole or not at all."""

from __future__ import annotations

import datetime as dt
import os
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store

from moretta import pki

NOW = dt.datetime(2026, 11, 20, tzinfo=dt.UTC)


def test_a_server_certificate_verifies_against_its_authority_and_no_other() -> None:
    authority, stranger = pki.Authority(now=NOW), pki.Authority(now=NOW)
    leaf = x509.load_pem_x509_certificate(authority.issue(["gateway.example"], now=NOW).certificate_pem)

    def verify(trusted: pki.Authority) -> None:
        store = Store([x509.load_pem_x509_certificate(trusted.pair.certificate_pem)])
        PolicyBuilder().store(store).time(NOW).build_server_verifier(x509.DNSName("gateway.example")).verify(leaf, [])

    verify(authority)
    with pytest.raises(x509.verification.VerificationError):
        verify(stranger)


def test_names_and_addresses_are_told_apart() -> None:
    pair = pki.Authority(now=NOW).issue(["localhost", "127.0.0.1", "::1"], now=NOW)
    certificate = x509.load_pem_x509_certificate(pair.certificate_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]
    facts = pki.facts_of(pair.certificate_pem)
    assert facts.names == ("localhost", "127.0.0.1", "::1")
    assert facts.not_after == NOW + dt.timedelta(days=pki.SERVER_DAYS)
    assert len(facts.pin_sha256) == 44


def test_a_key_belongs_to_its_own_certificate_only() -> None:
    authority = pki.Authority()
    one, other = authority.issue(["a.example"]), authority.issue(["b.example"])
    assert pki.belongs_together(one.certificate_pem, one.key_pem)
    assert not pki.belongs_together(one.certificate_pem, other.key_pem)
    assert not pki.belongs_together(one.certificate_pem, b"-----BEGIN PRIVATE KEY-----\n-----END PRIVATE KEY-----\n")


def test_a_key_is_not_in_the_representation_of_a_pair() -> None:
    pair = pki.Authority().pair
    assert "PRIVATE" not in repr(pair)


def test_a_secret_file_was_never_readable_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    real_link = os.link

    def link(source: Path, target: Path) -> None:
        modes.append(stat.S_IMODE(source.stat().st_mode))
        real_link(source, target)

    monkeypatch.setattr(os, "link", link)
    old = os.umask(0)
    try:
        pki.write_new(tmp_path / "a.key", b"secret", secret=True)
        pki.write_new(tmp_path / "a.pem", b"public")
    finally:
        os.umask(old)
    assert modes == [0o600, 0o644]
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600


def test_an_existing_file_is_never_overwritten_and_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        pki.write_new(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
