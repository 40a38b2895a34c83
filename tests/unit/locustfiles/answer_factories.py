"""Answer records as Locust's users report them, for tests of the conversion and the verdict."""

import json
from pathlib import Path
from typing import Any

HEADER: dict[str, Any] = {
    "load": 1, "run_id": "load-1", "started_at": "2026-01-01T00:00:00.000+00:00", "provider": "sim:steady",
    "strategy": "", "model": "sim:steady", "max_tokens": 8, "cancel_rate": 0.0, "reconnect_rate": 0.0,
    "slow_rate": 0.0, "shape": "steady", "users": 2, "spawn_rate": 2.0, "run_time_s": 1, "kinds": ["SseUser"],
    "think_s": [0.0, 0.0], "processes": 1,
}  # fmt: skip
END = {"ended_at": "2026-01-01T00:00:05.000+00:00"}


def make_answer(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return a completed answer: asked at 10 s, sent at 10.5 s, four texts 20 ms apart from 10.7 s, then the end."""
    texts = [[10.7 + 0.02 * place, "text", 4, None] for place in range(4)]
    fields: dict[str, Any] = {
        "trial_id": f"answer-{number}", "transport": "sse", "prompt_id": "one", "provider": "sim:steady",
        "strategy": "direct", "started_at": "2026-01-01T00:00:01.000+00:00", "asked_s": 10.0, "ramping": False,
        "outcome": "completed", "finish_reason": "stop", "error_type": None, "error_message": None,
        "http_status": None, "connect_s": 0.1, "sent_s": 10.5, "headers_s": 10.6, "attempts": 1,
        "fell_back_to": None, "cost_usd": None, "merged_reads": 0, "stamp_source": "kernel", "resumed": 0,
        "real_time": True, "worker": 0, "peer_address": "127.0.0.1",
        "usage": {"input_tokens": 3, "output_tokens": 4, "thinking_tokens": 0, "source": "reported"},
        "events": [*texts, [10.8, "finish", None, None]],
    }  # fmt: skip
    return fields | changes


def write_answers(folder: Path, *answers: dict[str, Any], header: dict[str, Any] = HEADER, ended: bool = True) -> Path:
    """Write `answers.jsonl` as Locust's master writes it."""
    lines = [header, *answers, *([END] if ended else [])]
    (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder
