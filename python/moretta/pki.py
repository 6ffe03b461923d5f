"""Certificates for gateways that have none yet: a private authority and a server certificate.

Used by `moretta init`, by the demo and by `moretta.testing`. The gateway itself never imports this module and never
holds an authority's key.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: An authority is made once and installed by hand; ten years spare the second time.
AUTHORITY_DAYS = 3650
#: Browsers and Apple accept no server certificate for longer; ours would do with any.
SERVER_DAYS = 397
#: Clocks of clients may be behind.
BACKDATED = dt.timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its private key, both PEM. The key is not part of the representation."""

    certificate_pem: bytes
    key_pem: bytes

    def __repr__(self) -> str:
        return f"<Pair of {len(self.certificate_pem)} certificate bytes and a key>"


class Authority:
    """A certificate authority: `pair` is its own certificate and key."""

    def __init__(self, name: str = "moretta authority", *, now: dt.datetime | None = None) -> None:
        now = now or dt.datetime.now(dt.UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        # Two authorities of one name in a trust store must be told apart.
        subject = _name(f"{name} {secrets.token_hex(4)}")
        self._key = key
        self._certificate = (
            _builder(subject, subject, key.public_key(), now, AUTHORITY_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        self.pair = _pair(self._certificate, key)

    def issue(self, names: Iterable[str], *, now: dt.datetime | None = None, days: int = SERVER_DAYS) -> Pair:
        """Return a server certificate for DNS names and IP addresses; the chain is the leaf alone."""
        names = tuple(names)
        now = now or dt.datetime.now(dt.UTC)
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(names[0]), self._certificate.subject, key.public_key(), now, days)
            .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
        )
        return _pair(certificate, key)


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What `moretta check` says about a certificate."""

    names: tuple[str, ...]
    not_after: dt.datetime
    pin_sha256: str


def facts_of(certificate_pem: bytes) -> CertificateFacts:
    """Return names, end and public key pin (as `moretta.connect` takes it) of the first certificate of a PEM file.

    Raises ValueError if there is none.
    """
    import base64
    import hashlib

    certificate = x509.load_pem_x509_certificate(certificate_pem)
    try:
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        names: tuple[str, ...] = ()
    else:
        names = tuple(str(name.value) for name in alternatives)
    key = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    pin = base64.b64encode(hashlib.sha256(key).digest()).decode()
    return CertificateFacts(names, certificate.not_valid_after_utc, pin)


def belongs_together(certificate_pem: bytes, key_pem: bytes) -> bool:
    """Whether the private key is that of the first certificate. False as well for a key that cannot be read."""
    try:
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError):
        return False
    return key.public_key() == x509.load_pem_x509_certificate(certificate_pem).public_key()


def write_new(path: Path, content: bytes, *, secret: bool = False) -> None:
    """Create a file whole or not at all; a secret one is readable by its owner from its first byte.

    Raises FileExistsError if there is one already, and OSError for what else can go wrong.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600 if secret else 0o644)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123 -- a descriptor, not a path
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # Unlike a rename, a link never replaces what is there.
        os.link(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    now: dt.datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + dt.timedelta(days=days))
    )


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
