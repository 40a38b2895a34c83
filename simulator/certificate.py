"""Generation of a temporary self-signed certificate for 127.0.0.1 with the `openssl` command."""

import subprocess
from pathlib import Path


def make_self_signed(folder: Path) -> tuple[str, str]:
    """Write a self-signed certificate and its key to `folder` and return the paths of the two PEM files.

    Raises OSError when `openssl` is missing and subprocess.SubprocessError when it fails.
    """
    certificate, key = str(folder / "certificate.pem"), str(folder / "key.pem")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    command += ["-days", "2", "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-out", certificate, "-keyout", key], check=True, capture_output=True, timeout=60)
    return certificate, key
