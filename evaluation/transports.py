"""The names of transports: how a request is sent, and for a browser on which page and under which load it reads."""

import re
from dataclasses import dataclass

from streaming.errors import UsageError

IN_PROCESS = "in-process"
BROWSER = "browser"
TRANSPORTS = (IN_PROCESS, "sse", "websocket", "openai", BROWSER)
"""How a request is sent: through the pipeline in this process, or to the service over one of its transports. The
browser's name may be followed by settings; see `BrowserTransport`."""
CLIENT_TRANSPORTS = ("sse", "websocket", "openai")
"""The transports that a client in this process receives: what arrives there is timed, after the service's strategy."""
PAGES = ("plain", "chat", "custom")
"""The pages that a browser reads on: one that draws every event as it comes, this project's own chat, or the one of
`--page-url`."""
MAX_COLUMNS = 8
MAX_CPU_SLOWDOWN = 20
BROWSER_FORM = f"browser[:{'|'.join(PAGES)}][:columns=N][:cpu=N]"


def transport_kind(name: str) -> str:
    """Return the transport without its settings: `browser` for `browser:cpu=4`."""
    return name.partition(":")[0]


@dataclass(frozen=True, slots=True)
class BrowserTransport:
    """A browser that reads answers: its page, the answers side by side on it, and the slowdown of its processor.

    >>> str(BrowserTransport.parse("browser:cpu=4:columns=1"))
    'browser:cpu=4'
    """

    page: str = PAGES[0]
    columns: int = 1
    cpu: int = 1

    @classmethod
    def parse(cls, name: str) -> "BrowserTransport":
        """Parse a name such as `browser:columns=2:cpu=4`. Raises UsageError when it is not one."""
        kind, *settings = name.split(":")
        page, numbers = PAGES[0], {"columns": 1, "cpu": 1}
        for setting in settings:
            if setting in PAGES:
                page = setting
            elif match := re.fullmatch(r"(columns|cpu)=([0-9]{1,3})", setting):
                numbers[match[1]] = int(match[2])
            else:
                raise UsageError(f"transport: {name!r} is unknown (write {BROWSER_FORM})")
        if kind != BROWSER:
            raise UsageError(f"transport: {name!r} is unknown (write {BROWSER_FORM})")
        for limit, key in ((MAX_COLUMNS, "columns"), (MAX_CPU_SLOWDOWN, "cpu")):
            if not 1 <= numbers[key] <= limit:
                raise UsageError(f"transport: {key} is out of range in {name!r} (use 1 to {limit})")
        if numbers["columns"] > 1 and page != PAGES[0]:
            raise UsageError(f"transport: {name!r} has columns, which only the plain page has (leave one of them out)")
        return cls(page, **numbers)

    def __str__(self) -> str:
        parts = [BROWSER]
        if self.page != PAGES[0]:
            parts.append(self.page)
        parts += [f"{key}={value}" for key, value in (("columns", self.columns), ("cpu", self.cpu)) if value > 1]
        return ":".join(parts)


@dataclass(frozen=True, slots=True)
class PageSelectors:
    """Any chat page: its address, and the CSS selectors of its text box, Send button, answers and Stop button.

    Without `send` the Enter key sends. `stop` matches an element only while an answer runs; without it, an answer has
    ended when its text has not changed for some seconds.
    """

    url: str
    box: str
    answer: str
    send: str | None = None
    stop: str | None = None
