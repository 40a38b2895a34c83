"""A certificate for 127.0.0.1, made for one run by the openssl program."""

import subprocess
from pathlib import Path


def make_self_signed(folder: Path) -> tuple[str, str]:
    """Write a certificate, which signs itself, and its key to `folder`; return both files' names, PEM.

    Raises OSError and subprocess.SubprocessError where openssl is missing or does not do it.
    """
    certificate, key = str(folder / "certificate.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    command += ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-out", certificate, "-keyout", key], check=True, capture_output=True, timeout=60)
    return certificate, key
