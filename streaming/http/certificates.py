"""TLS contexts that trust the certificate authorities which the environment names."""

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from streaming.errors import UsageError


@dataclass(frozen=True, slots=True)
class TrustedCertificates:
    """Where SSL_CERT_FILE and SSL_CERT_DIR say that certificate authorities are; None for a variable that is not set.

    As for OpenSSL and curl, the file takes the place of the default certificates, and the folders add to whichever of
    the two is used. In a folder, a certificate has the name that `openssl rehash` gives it.
    """

    file: str | None = None
    folders: str | None = None
    """One folder or several, separated as in PATH."""

    def create_context(self, create_default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
        """Return a TLS context that trusts these certificates; `create_default` returns one without a file.

        Raises UsageError naming the variable when the file or every folder cannot be read.
        """
        context = create_default() if self.file is None else _load_file(self.file)
        if self.folders is not None:
            _check_folders(self.folders)
            context.load_verify_locations(capath=self.folders)
        return context


def _load_file(path: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:  # a missing file, and one without certificates
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        raise UsageError(
            f"SSL_CERT_FILE: the certificates in {path!r} cannot be read: {reason} (name a PEM file, or unset it)"
        ) from None


def _check_folders(folders: str) -> None:
    """Raise UsageError if no folder of the list can be read; OpenSSL looks only into those that it can read."""
    reason = "no folder is named"
    for folder in filter(None, folders.split(os.pathsep)):
        try:
            os.scandir(folder).close()
        except OSError as error:
            reason = error.strerror or str(error)
        else:
            return
    raise UsageError(f"SSL_CERT_DIR: {folders!r} cannot be read: {reason} (name a folder of certificates, or unset it)")
