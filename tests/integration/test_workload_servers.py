"""Workloads on llama.cpp's own server, and the servers that count tokens."""

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

import evaluation
from evaluation.__main__ import main as evaluate
from evaluation.tables import Run
from providers import ProviderRegistry
from providers.dialects.service_adapter import FittedRequest
from providers.local.model import LocalModel
from settings import Settings
from streaming.messages import ChatRequest, Message
from tests.integration.raw_server import RawConnection, Script, run_raw_server

LONG = ChatRequest((Message("user", "Hi"),), model="m", max_tokens=40, ignores_end=True)


@pytest.fixture
def llama_server(local_model: LocalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    server = asyncio.run(local_model.wait_server())
    monkeypatch.setenv("LLAMA_SERVER_BASE_URL", server.base_url)
    monkeypatch.setenv("LLAMA_SERVER_API_KEY", server.key)
    monkeypatch.setenv("SCRAPE_KEY", server.key)


def run_evaluation(folder: Path, *options: str) -> Run:
    words = "run --providers llama-server:local --no-plots"
    assert evaluate([*words.split(), *options, "--out", str(folder)]) == 0
    return evaluation.load(folder)


def run_workload(folder: Path, *options: str) -> Run:
    return run_evaluation(folder, "--workload", "20/5,80/5", "--prompt-count", "2", *options)


@pytest.mark.usefixtures("llama_server")
def test_real_model_reports_the_lengths_that_were_asked(tmp_path: Path) -> None:
    address = os.environ["LLAMA_SERVER_BASE_URL"].removesuffix("/v1")
    run = run_workload(tmp_path / "salted", "--scrape", address)
    trials = run.trials
    assert set(trials["asked_input_tokens"]) == {20, 80} and set(trials["output_tokens"]) == {5}
    template = int(trials["template_tokens"].iloc[0])
    assert ((trials["input_tokens"] - template - trials["asked_input_tokens"]).abs() <= 2).all()
    assert (trials["cached_tokens"] <= template + 2).all()
    short, long = (trials.loc[trials["asked_input_tokens"] == tokens, "ttft_s"] for tokens in (20, 80))
    assert long.min() > short.min(), "the prefill of four times as many tokens takes longer"
    read = run.server[run.server["error"].isna()]
    assert set(read["server"]) == {"llama.cpp"} and read["input_tokens"].is_monotonic_increasing
    assert read["running"].max() >= 1 and read["input_tokens"].iloc[-1] > read["input_tokens"].iloc[0]


@pytest.mark.usefixtures("llama_server")
def test_answers_over_the_services_transports_are_as_long_as_asked(tmp_path: Path) -> None:
    words = "--workload 20/50 --prompt-count 1 --transport sse,websocket,openai"
    trials = run_evaluation(tmp_path / "run", *words.split()).trials
    assert set(trials["transport"]) == {"sse", "websocket", "openai"}
    assert set(trials["output_tokens"]) == {50}


@pytest.mark.usefixtures("llama_server")
def test_real_model_reads_the_shared_prefix_from_its_cache(tmp_path: Path) -> None:
    trials = run_workload(tmp_path / "shared", "--shared-prefix", "0.8").trials
    repeated = trials[~trials["fresh"]]
    assert len(repeated) == 2 and (repeated["cached_tokens"] >= 0.78 * repeated["asked_input_tokens"]).all()
    unshared = repeated["input_tokens"] - repeated["cached_tokens"]
    assert (unshared >= 0.18 * repeated["asked_input_tokens"]).all()


@pytest.mark.usefixtures("llama_server")
def test_cached_share_of_a_conversation_with_the_real_model_rises_with_each_turn(tmp_path: Path) -> None:
    turns = ["And in Asia?", "And in Africa?", "And in America?", "Which is longest?"]
    talk = {"id": "talk", "prompt": "Name a river in Europe.", "turns": turns, "max_tokens": 8}
    (tmp_path / "talk.jsonl").write_text(json.dumps(talk))
    trials = run_evaluation(tmp_path / "run", "--prompts", str(tmp_path / "talk.jsonl")).trials.sort_values("turn")
    assert trials["turn"].tolist() == [1, 2, 3, 4, 5] and set(trials["outcome"]) == {"completed"}
    shares = (trials["cached_tokens"] / trials["input_tokens"]).tolist()
    assert shares == sorted(set(shares)) and shares[-1] > 0.6
    ends_s = (trials["sent_monotonic_s"] + trials["e2e_s"]).tolist()
    assert all(sent_s > ended_s for sent_s, ended_s in zip(trials["sent_monotonic_s"].iloc[1:], ends_s, strict=False))


def ask_server(script: Script, name: str) -> tuple[str, int, list[RawConnection]]:
    """Return how the tokens of a name are counted, their number in a short text, and the requests for it."""

    async def ask() -> tuple[str, int, list[RawConnection]]:
        async with run_raw_server(script) as server:
            url = f"http://127.0.0.1:{server.port}/v1"
            variables = {"VLLM_BASE_URL": url, "LLAMA_SERVER_BASE_URL": url, "VLLM_API_KEY": "k"}
            providers = ProviderRegistry(Settings(variables))
            try:
                tokenizer = await providers.find_tokenizer(name)
                return tokenizer.source, await tokenizer.count("Five words, a comma."), server.requests
            finally:
                await providers.aclose()

    return asyncio.run(ask())


async def count_words(connection: RawConnection) -> None:
    words = connection.json.get("prompt", connection.json.get("content")).split()
    body = {"count": len(words)} if "prompt" in connection.json else {"tokens": list(range(len(words)))}
    connection.send_response("application/json", json.dumps(body).encode())


async def refuse(connection: RawConnection) -> None:
    connection.send_response("application/json", b"{}", "404 Not Found")


def test_vllm_and_llama_cpp_count_tokens_at_their_own_addresses() -> None:
    source, count, requests = ask_server(count_words, "vllm:m")
    assert (source, count, requests[-1].path) == ("server", 4, "/tokenize")
    assert requests[-1].json == {"model": "m", "prompt": "Five words, a comma.", "add_special_tokens": False}
    assert requests[-1].headers["authorization"] == "Bearer k"
    source, count, requests = ask_server(count_words, "llama-server:m")
    assert (source, count) == ("server", 4)
    assert requests[-1].json == {"content": "Five words, a comma.", "add_special": False}


def test_server_that_does_not_count_is_estimated() -> None:
    assert ask_server(refuse, "vllm:m")[:2] == ("estimate", 5)
    assert ask_server(refuse, "openai:gpt-4.1")[:2] == ("encoding", 6)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("vllm:m", {"ignore_eos": True, "min_tokens": 40}),
        ("llama-server:m", {"ignore_eos": True}),
        ("lmstudio:m", {}),
    ],
)
def test_answers_are_as_long_as_asked_where_the_server_takes_it(name: str, fields: dict[str, Any]) -> None:
    async def serialize() -> dict[str, Any]:
        url = "http://127.0.0.1:1/v1"
        variables = {"VLLM_BASE_URL": url, "LLAMA_SERVER_BASE_URL": url, "LMSTUDIO_BASE_URL": url}
        providers = ProviderRegistry(Settings(variables))
        try:
            prepared = await providers.route(name).adapter.prepare_request(LONG)
            assert isinstance(prepared, FittedRequest)
            _, _, body = prepared.serialized.with_request_id("1").partition(b"\r\n\r\n")
            return dict(json.loads(body))
        finally:
            await providers.aclose()

    body = asyncio.run(serialize())
    assert {key: body[key] for key in ("ignore_eos", "min_tokens") if key in body} == fields
