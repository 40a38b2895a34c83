"""A page without a browser: its controls' events over Gradio's queue, in the order in which the page sends them."""

import json
import uuid
from collections.abc import Mapping
from typing import Any

import httpx2


class PageDriver:
    """One open page of the service that `client` talks to. Values are kept by component id."""

    def __init__(self, client: httpx2.AsyncClient, config: Mapping[str, Any]) -> None:
        self._client = client
        self._session = uuid.uuid4().hex[:11]
        self._events = list(config["dependencies"])
        self._values = {part["id"]: part["props"].get("value") for part in config["components"]}
        self._names = {part["props"].get("elem_id"): part["id"] for part in config["components"]}

    @classmethod
    async def open(cls, client: httpx2.AsyncClient) -> "PageDriver":
        """Load the page's configuration."""
        return cls(client, (await client.get("/config")).json())

    def set(self, elem_id: str, value: Any) -> None:
        """Fill in a control."""
        self._values[self._names[elem_id]] = value

    def value(self, elem_id: str) -> Any:
        """Return what a component shows."""
        return self._values[self._names[elem_id]]

    async def fire(self, elem_id: str, action: str) -> None:
        """Run the event of a control, and after it all events that follow on its success."""
        target = [self._names[elem_id], action]
        chain = [event for event in self._events if target in event["targets"] and event["backend_fn"]]
        for event in chain:
            self._apply(event, await self._run(event))
            chain += [
                other
                for other in self._events
                if other.get("trigger_after") == event["id"]
                and other["backend_fn"]
                and not other["trigger_only_on_failure"]
            ]

    async def _run(self, event: Mapping[str, Any]) -> list[Any]:
        body = {
            "data": [self._values[number] for number in event["inputs"]],
            "fn_index": event["id"],
            "session_hash": self._session,
            "trigger_id": None,
            "event_data": None,
        }
        path = "/gradio_api/queue/join" if event["queue"] else "/gradio_api/run/predict"
        joined = await self._client.post(path, json=body)
        assert joined.status_code == 200, joined.text
        return await self._read_queue() if event["queue"] else joined.json()["data"]

    async def _read_queue(self) -> list[Any]:
        target = {"session_hash": self._session}
        async with self._client.stream("GET", "/gradio_api/queue/data", params=target) as stream:
            async for line in stream.aiter_lines():
                message = json.loads(line.removeprefix("data: ") or "{}") if line else {}
                if message.get("msg") == "process_completed":
                    assert message["success"], message
                    result: list[Any] = message["output"]["data"]
                    return result
        raise AssertionError("the queue ended before the event")

    def _apply(self, event: Mapping[str, Any], data: list[Any]) -> None:
        for number, value in zip(event["outputs"], data, strict=True):
            is_update = isinstance(value, dict) and value.get("__type__") == "update"
            if not is_update:
                self._values[number] = value
            elif "value" in value:
                self._values[number] = value["value"]
