"""Certificates for tests: CAs, and what they issue."""
import datetime
import ipaddress
import pathlib

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


def _pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_of_key(key):
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


class Pair:
    """Paths of a certificate and its key."""

    def __init__(self, folder, name, certificate, key):
        self.certificate, self.key = pathlib.Path(folder) / f"{name}.pem", pathlib.Path(folder) / f"{name}.key"
        self.certificate.write_bytes(_pem(certificate))
        self.key.write_bytes(_pem_of_key(key))
        self.serial = certificate.serial_number

    def move_over(self, other):
        """Takes the place of `other`, one file after the other, each by a rename."""
        self.key.rename(other.key)
        self.certificate.rename(other.certificate)
        other.serial = self.serial


class Authority:
    def __init__(self, folder, name):
        self.folder, self.name = pathlib.Path(folder), name
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.utcnow()
        self.certificate = (
            x509.CertificateBuilder().subject_name(self.subject).issuer_name(self.subject).public_key(self.key.public_key())
            .serial_number(x509.random_serial_number()).not_valid_before(now - DAY).not_valid_after(now + 365 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self.key, hashes.SHA256()))
        self.path = self.folder / f"{name}-ca.pem"
        self.path.write_bytes(_pem(self.certificate))

    def issue(self, name, begin=-1, end=30):
        """A certificate for this host, valid from `begin` to `end` days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.utcnow()
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            x509.CertificateBuilder().subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.subject).public_key(key.public_key()).serial_number(x509.random_serial_number())
            .not_valid_before(now + begin * DAY).not_valid_after(now + end * DAY)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(self.key, hashes.SHA256()))
        return Pair(self.folder, name, certificate, key)
