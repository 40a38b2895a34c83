"""Certificate authorities as SSL_CERT_FILE and SSL_CERT_DIR name them."""

import os
import ssl
import subprocess
from pathlib import Path

import pytest

from simulator.certificate import make_self_signed
from streaming.errors import UsageError
from streaming.http.certificates import TrustedCertificates


def trust_nobody() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a certificate under the name that OpenSSL looks for, and its PEM files."""
    folder = tmp_path_factory.mktemp("certificates")
    certificate, _ = make_self_signed(folder)
    command = ["openssl", "x509", "-hash", "-noout", "-in", certificate]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    (folder / "hashed").mkdir()
    (folder / "hashed" / f"{name}.0").write_bytes(Path(certificate).read_bytes())
    return folder


def is_trusted(context: ssl.SSLContext, folder: Path) -> bool:
    """Return whether a handshake with a server that has the folder's certificate succeeds."""
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_context.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    upward, downward = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(downward, upward, server_hostname="127.0.0.1")
    server = server_context.wrap_bio(upward, downward, server_side=True)
    for _ in range(4):
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError:
                return False
            if side is client:
                return True
    raise AssertionError("the handshake did not end")


def test_folder_adds_to_the_default_and_the_file_takes_its_place(folder: Path) -> None:
    hashed, file = str(folder / "hashed"), str(folder / "certificate.pem")
    listed = os.pathsep.join(["/nonexistent/certs", hashed])
    trusted = {
        named: is_trusted(named.create_context(trust_nobody), folder)
        for named in (
            TrustedCertificates(),
            TrustedCertificates(None, hashed),
            TrustedCertificates(None, listed),
            TrustedCertificates(file),
        )
    }
    assert list(trusted.values()) == [False, True, True, True]
    both = TrustedCertificates(file, hashed).create_context(lambda: pytest.fail("the file is used instead"))
    assert is_trusted(both, folder)

    def trust_file() -> ssl.SSLContext:
        return ssl.create_default_context(cafile=file)

    empty = TrustedCertificates(None, str(folder)).create_context(trust_file)
    assert is_trusted(empty, folder), "the default is still trusted"


@pytest.mark.parametrize(
    ("named", "words"),
    [
        (TrustedCertificates("/nonexistent/ca.pem"), "SSL_CERT_FILE: the certificates in '/nonexistent/ca.pem' cannot"),
        (TrustedCertificates(None, "/nonexistent/a:/nonexistent/b"), "SSL_CERT_DIR: '/nonexistent/a:/nonexistent/b'"),
        (TrustedCertificates(None, ":"), "SSL_CERT_DIR: ':' cannot be read: no folder is named"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_names_the_variable(named: TrustedCertificates, words: str) -> None:
    with pytest.raises(UsageError) as error:
        named.create_context(trust_nobody)
    assert str(error.value).startswith(words) and "\n" not in str(error.value)


def test_file_in_place_of_a_folder_is_told(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"^SSL_CERT_DIR: .* Not a directory \(name a folder"):
        TrustedCertificates(None, str(folder / "certificate.pem")).create_context(trust_nobody)
