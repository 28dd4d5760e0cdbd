"""A certificate for this machine, by an authority that nobody knows: each is made for one test."""

import ipaddress
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = ipaddress.ip_address("127.0.0.1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """Files in PEM."""

    authority: Path
    """For AWS_CA_BUNDLE."""
    chain: Path
    key: Path

    @classmethod
    def make(cls, folder: Path) -> "Certificate":
        """A new authority, and a certificate for 127.0.0.1 that it signed."""
        root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        root = _signed("an authority of a test", root_key, "an authority of a test", root_key)
        leaf = _signed("127.0.0.1", key, "an authority of a test", root_key)
        made = cls(
            authority=folder / "authority.pem", chain=folder / "chain.pem", key=folder / "key.pem"
        )
        made.authority.write_bytes(root.public_bytes(serialization.Encoding.PEM))
        made.chain.write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
        made.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return made

    def context(self) -> ssl.SSLContext:
        """For a server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.chain, self.key)
        return context


def _signed(
    name: str, key: ec.EllipticCurvePrivateKey, by: str, with_key: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    now = datetime.now(UTC)
    is_authority = name == by
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name))
        .issuer_name(_name(by))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(with_key.public_key()),
            critical=False,
        )
    )
    if is_authority:
        builder = builder.add_extension(_signs_certificates(), critical=True)
    else:
        names = x509.SubjectAlternativeName([x509.IPAddress(HOST)])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(with_key, hashes.SHA256())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _signs_certificates() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
