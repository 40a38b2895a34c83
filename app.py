"""The entry point of Streamgauge: read the settings, build the service, mount the page, and serve.

python app.py [--host H] [--port P] [--no-ui] [--share] [--workers N]
"""

import argparse
import faulthandler
import os
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from guard import Guard, GuardConfig, GuardVariables
from providers import ProviderRegistry
from providers.services import service_variables
from server import logging_config, uvicorn_server
from server.app import create_app
from server.captured_output import CapturedOutput
from server.hosts import AllowedHosts, check_allowed_origins, parse_allowed_hosts
from server.offer import Offer
from settings import Settings, check_variables, find_misspelt_variables, read_environment, repair_environment
from streaming.errors import UsageError
from streaming.garbage import without_garbage_collection

PORT = 7860
SHUTDOWN_GRACE_S = 30.0
"""How long answers under way may continue after the signal to stop."""
SHUTDOWN_GRACE_WITH_PAGE_S = 3.0
"""The same when the page is served: each open tab holds a connection that never ends by itself."""

_OTHER_WORDS = {
    "GRADIO_SERVER_NAME": "--host and --port",
    "GRADIO_SERVER_PORT": "--host and --port",
    "GRADIO_ROOT_PATH": "ROOT_PATH",
}
"""Gradio's own variables, and what does the same here."""


def create_worker_app(address: str) -> Any:
    """Return the application of one worker process: the service without the page, configured from the environment.

    `address` is the address that the supervisor listens on. Raises UsageError when the environment is not usable.
    """
    settings = Settings.from_environment()
    output = CapturedOutput()
    output.open(trusted=False)
    faulthandler.enable(output.error)
    logging_config.configure_logging(settings.mask_secrets, output.error)
    guard = _make_guard(settings)
    hosts = _allowed_hosts(address, settings, guard)
    with without_garbage_collection():
        return create_app(ProviderRegistry(settings), guard, settings, grace_s=SHUTDOWN_GRACE_S, hosts=hosts)


def _allowed_hosts(address: str, settings: Settings, guard: Guard) -> AllowedHosts:
    """Return the host names that requests to this listener may use. Raises UsageError when ALLOWED_HOSTS is invalid."""
    is_proxied = settings.on_space or guard.configuration.hops > 0
    return AllowedHosts.from_listener(address, parse_allowed_hosts(settings.allowed_hosts), is_proxied=is_proxied)


def _make_guard(settings: Settings) -> Guard:
    configuration = GuardConfig.from_env(settings.variables, settings.secrets())
    return Guard(configuration, redis_url=settings.redis_url, redis_timeout_s=settings.redis_timeout_s)


def _open_listener(host: str, port: int, reader_s: int) -> socket.socket:
    """Bind the port before any slow start-up work begins. Raises UsageError when the port is not available."""
    try:
        host = host.removeprefix("[").removesuffix("]")  # an IPv6 address as in a URL
        family = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][0]
        # On all addresses of IPv6 means on all addresses, where the system can.
        is_dual = family == socket.AF_INET6 and host == "::" and socket.has_dualstack_ipv6()
        listener = socket.create_server((host, port), family=family, backlog=2048, dualstack_ipv6=is_dual)
    except (socket.gaierror, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"--host: {host!r} is no address, {reason} (use an address of this machine)") from None
    except (OSError, OverflowError) as error:
        code = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(code) if code else str(error)
        raise UsageError(
            f"--port: cannot listen on {host}:{port}, {reason} (choose another --port or --host)"
        ) from None
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Accepted sockets inherit this option: the kernel drops a client that no longer reads, which stops its answer.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, reader_s * 1000)
    return listener


def _listener_url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    here = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{here}:{port}"


def _default_address(variables: Mapping[str, str]) -> tuple[str, int]:
    """Return the host and port to listen on without options; a Space is asked at fixed ones.

    A PORT that is no port is not used here: it is rejected together with other variables.
    """
    if variables.get("SPACE_ID", "").strip():
        return "0.0.0.0", PORT
    port = variables.get("PORT", "").strip()
    return "127.0.0.1", int(port) if port.isdecimal() else PORT


def _parse_options(arguments: Sequence[str] | None, default_host: str, default_port: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="app.py", description="Serve the streaming chat API and its page.")
    parser.add_argument("--host", default=default_host, help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, default=default_port, help="port to listen on, 0 for any free port (default: %(default)s)"
    )
    parser.add_argument("--no-ui", action="store_true", help="serve the API without the page")
    parser.add_argument(
        "--share", action="store_true", help="create a public link to the page through Gradio's share server"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="number of processes; more than one requires --no-ui and REDIS_URL",
    )
    return parser.parse_args(arguments)


def _check_options(options: argparse.Namespace, settings: Settings) -> None:
    check_allowed_origins(settings.allowed_origins)
    parse_allowed_hosts(settings.allowed_hosts)
    if options.share and options.no_ui:
        raise UsageError("--share: there is no page to share with --no-ui (remove one of the two)")
    if options.workers < 1:
        raise UsageError(f"--workers: {options.workers} is not a number of processes (use 1 or more)")
    if options.workers > 1 and not options.no_ui:
        raise UsageError("--workers: the page runs in one process only (add --no-ui, or remove --workers)")
    if options.workers > 1 and settings.redis_url is None:
        raise UsageError("--workers: several workers share limits and streams through Redis (set REDIS_URL)")
    if not options.no_ui or options.workers > 1:
        _check_temporary_folder()


def _check_temporary_folder() -> None:
    """Raise UsageError when there is no folder for temporary files, which the page's library and workers need."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        raise UsageError(
            "TMPDIR: no folder for temporary files can be written (name one; a service of one process with --no-ui "
            "needs none)"
        ) from None


def _serve_workers(listener: socket.socket, count: int, settings: Settings, body_bytes: int) -> int:
    with tempfile.TemporaryDirectory(prefix="streamgauge-metrics-") as folder:
        settings.set_metrics_folder(folder)
        factory = partial(create_worker_app, listener.getsockname()[0])
        config = uvicorn_server.uvicorn_config(factory, grace_s=SHUTDOWN_GRACE_S, workers=count, body_bytes=body_bytes)
        workers = uvicorn_server.WorkerSupervisor(config, [listener])
        workers.address = _listener_url(listener)
        workers.run()
        return 1 if workers.failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until stopped, and return the exit code of the process: 0, 1 for a failed start, 2 for invalid usage."""
    variables = read_environment()
    for line in repair_environment():
        print(f"warning: {line}", file=sys.stderr)
    for name in sorted(_OTHER_WORDS.keys() & variables.keys()):
        print(f"warning: {name}: is not read here (use {_OTHER_WORDS[name]})", file=sys.stderr)
    known = Settings.variable_names() | GuardVariables.variable_names() | service_variables()
    for line in find_misspelt_variables(variables, known):
        print(f"warning: {line}", file=sys.stderr)
    options = _parse_options(arguments, *_default_address(variables))
    try:
        check_variables(variables, Settings, GuardVariables)
        settings = Settings(variables)
        providers = ProviderRegistry(settings)
        _check_options(options, settings)
        providers.local_model.validate_file()
        guard = _make_guard(settings)
        listener = _open_listener(options.host, options.port, settings.reader_timeout_s)
        host = listener.getsockname()[0]
        offer = Offer.from_settings(settings, host, shared=options.share)
        hosts = _allowed_hosts(host, settings, guard)
    except UsageError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    uvicorn_server.raise_worker_fd_limit()
    if options.workers > 1:
        settings.share_listening_host(host)
        return _serve_workers(listener, options.workers, settings, guard.configuration.limits.body_bytes)
    try:
        _serve(listener, options, providers, offer, settings, guard, hosts)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _serve(
    listener: socket.socket,
    options: argparse.Namespace,
    providers: ProviderRegistry,
    offer: Offer,
    settings: Settings,
    guard: Guard,
    hosts: AllowedHosts,
) -> None:
    """Serve in this process until stopped. Raises UsageError when ZeroGPU does not accept the report of the start."""
    with CapturedOutput() as output:
        logging_config.configure_logging(settings.mask_secrets, output.error, lambda: output.trusted)
        grace_s = SHUTDOWN_GRACE_S if options.no_ui else SHUTDOWN_GRACE_WITH_PAGE_S
        with without_garbage_collection():
            app: Any = create_app(providers, guard, settings, offer=offer, grace_s=grace_s, hosts=hosts)
            if not options.no_ui:
                app = _mount_page(app, settings)
        if options.share:
            from ui.app import share

            share(listener.getsockname()[1], output.print_line, hosts.add_link)
        body_bytes = guard.configuration.limits.body_bytes
        config = uvicorn_server.uvicorn_config(app, grace_s=grace_s, body_bytes=body_bytes)
        uvicorn_server.GracefulServer(config, _listener_url(listener), output.print_ready).run(sockets=[listener])


def _mount_page(app: Any, settings: Settings) -> Any:
    from ui.app import mount

    app = mount(app, app.state.chat_service, settings=settings)
    if settings.on_zero_gpu:
        from space.zero_gpu import report_start

        report_start()
    return app


if __name__ == "__main__":
    sys.exit(main())
