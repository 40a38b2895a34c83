"""A link that anybody can open for a while, through Gradio's share server."""

import secrets
from collections.abc import Callable
from threading import Thread

from gradio.networking import setup_tunnel

from ui import texts


def share(port: int, say: Callable[[str], None], on_link: Callable[[str], None]) -> Thread:
    """Open a tunnel to a port of this machine in the background, and `say` its link, or why there is none.

    `on_link` has the link before anybody reads it.
    """

    def run() -> None:
        try:
            link = setup_tunnel("127.0.0.1", port, secrets.token_urlsafe(32), None, None)
        except Exception as error:  # whatever the tunnel's download, certificate, process or server fail with
            say(texts.NO_LINK.format(reason=type(error.__cause__ or error).__name__))
        else:
            on_link(link)
            say(texts.SHARED.format(link=link))

    thread = Thread(target=run, name="share", daemon=True)
    thread.start()
    return thread
