"""TLS contexts that trust the certificates of a file which a variable of the environment names."""

import ssl

from streaming.errors import UsageError


def load_certificates(variable: str, path: str) -> ssl.SSLContext:
    """Return a TLS context that trusts the certificates of a file. Raises UsageError naming the variable."""
    try:
        return ssl.create_default_context(cafile=path)
    except OSError as error:  # a missing file, and one without certificates
        reason = getattr(error, "reason", None) or error.strerror or str(error)
        raise UsageError(
            f"{variable}: the certificates in {path!r} cannot be read: {reason} (name a PEM file, or unset it)"
        ) from None
