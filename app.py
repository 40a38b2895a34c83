"""Streamgauge's entry: settings → service with the page mounted → serve.

python app.py [--host H] [--port P] [--no-ui]
"""

import argparse
import os
import socket
import sys
from collections.abc import Sequence

import uvicorn

from providers import Providers
from server.service import create
from settings import Settings
from streaming.errors import UsageError

PORT = 7860
GRACE_S = 3
"""How long open answers may go on after the signal to stop."""


class _Server(uvicorn.Server):
    """Says where it listens once it does: the port may have been the system's choice."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            host, port = (sockets or [])[0].getsockname()[:2]
            here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
            print(f"Streamgauge is at http://{here}:{port}", flush=True)


def _listener(host: str, port: int) -> socket.socket:
    """Take the port, before anything slow begins. Raises UsageError."""
    try:
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        code = error.errno if isinstance(error, OSError) and not isinstance(error, socket.gaierror) else None
        reason = os.strerror(code) if code else getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot listen on {host}:{port}: {reason}; choose another with --host, --port") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped; give the process's exit code."""
    settings = Settings.from_environment()
    parser = argparse.ArgumentParser(prog="app.py", description="Serve the streaming chat and its page.")
    default_host = "0.0.0.0" if settings.on_space else "127.0.0.1"
    parser.add_argument("--host", default=default_host, help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=PORT, help="port, 0 for any free one (default: %(default)s)")
    parser.add_argument("--no-ui", action="store_true", help="serve the API without the page")
    options = parser.parse_args(arguments)
    providers = Providers(settings)
    try:
        providers.local.check()
        listener = _listener(options.host, options.port)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    app = create(providers)
    if not options.no_ui:
        from ui.page import mount

        app = mount(app, providers)
    # The address in X-Forwarded-For is the client's own word: it is not believed.
    config = uvicorn.Config(
        app, log_level="warning", proxy_headers=False, server_header=False, timeout_graceful_shutdown=GRACE_S
    )
    _Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
