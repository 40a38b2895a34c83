"""Runs against a simulator with the vendors' rules: settings not taken, thinking, effort, money, endings, origin."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import evaluation
from evaluation.__main__ import main
from providers import ProviderRegistry
from providers.services import SERVICES
from settings import Settings
from simulator.server import read_log
from simulator.vendor_rules import VENDORS
from tests.arrival_times import assert_arrived_after_sends
from tests.simulator_process import run_simulator_process

PRICE_USD = 1e-6
"""The price of one output token in these runs."""


def vendor_variables(url: str) -> dict[str, str]:
    """Return an environment in which every service is the simulator, each at a path of its own."""
    found = {row.key: "sk-test" for row in SERVICES.values() if row.key}
    for row in SERVICES.values():
        found[row.base_url_variable] = f"{url}/{row.provider}/v1" if row.provider in VENDORS else f"{url}/v1"
    own = {"OPENAI_BASE_URL": f"{url}/v1", "ANTHROPIC_BASE_URL": url, "OLLAMA_HOST": url}
    return {**found, **own, "AZURE_OPENAI_ENDPOINT": f"{url}/azure/openai/v1"}


class VendorRuns:
    """Runs of the evaluation whose services are one simulator; its log names what it received and rejected."""

    def __init__(self, folder: Path, url: str, log: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self._log = folder, log
        self.variables: Mapping[str, str] = vendor_variables(url)
        for name, value in self.variables.items():
            patch.setenv(name, value)

    def run(self, words: str, *more: str) -> int:
        base = f"run {words} --strategies direct --prompt-count 1 --no-plots --out {self.folder}"
        return main([*base.split(), *more])

    def log_lines(self, name: str) -> list[dict[str, object]]:
        return [line for line in read_log(str(self._log)) if line["event"] == name]


@pytest.fixture
def vendor_runs(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[VendorRuns]:
    log = tmp_path / "truth.jsonl"
    with run_simulator_process(*request.param, "--log", str(log)) as url:
        yield VendorRuns(tmp_path / "run", url, log, monkeypatch)


def simulator(words: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vendor_runs", [words.split()], indirect=True, ids=[""])


@simulator("--ttft-ms 1 --gap-ms 0 --tokens 4")
def test_temperature_for_every_service_is_never_rejected_and_one_line_names_who_ignored_it(
    vendor_runs: VendorRuns,
) -> None:
    rows = ProviderRegistry(Settings(dict(vendor_runs.variables))).rows
    names = [f"{row.provider}:{row.example}" for row in rows.values()]
    assert vendor_runs.run(f"--providers {','.join(names)} --temperature 0.2 --concurrency 4 --repeats 1") == 0
    assert [line["refused"] for line in vendor_runs.log_lines("received") if "refused" in line] == []
    trials = evaluation.load(vendor_runs.folder).trials
    assert len(trials) == len(names) == len(SERVICES) and set(trials["outcome"]) == {"completed"}
    dropped = trials[trials["dropped_settings"].notna()]
    ignored = {f"{provider}:{model}" for provider, model in zip(dropped["provider"], dropped["model"], strict=True)}
    assert {"openai:gpt-6.1-terra", "anthropic:claude-haiku-5-5", "moonshot:kimi-k2.6"} <= ignored < set(names)
    report = (vendor_runs.folder / "report.md").read_text()
    (line,) = [line for line in report.splitlines() if "left out, as the model does not take it" in line]
    assert all(name in line for name in ignored) and not any(name in line for name in set(names) - ignored)


@simulator("--ttft-ms 1 --gap-ms 0 --tokens 20 --thinking-tokens 340")
def test_maximum_cost_is_exceeded_by_one_answer_at_most_where_thinking_is_not_limited(
    vendor_runs: VendorRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--providers xai:grok-4.3 --max-tokens 10 --repeats 40 --concurrency 8 --max-cost 0.0005 --no-warm-up"
    assert vendor_runs.run(words, "--price", "xai:grok-4.3=0.3/0.5") == 3
    trials = evaluation.load(vendor_runs.folder).trials
    assert set(trials["thinking_tokens"]) == {340} and set(trials["output_tokens"]) == {350}
    assert set(trials["cost_source"]) == {"billed"}
    assert 0 < trials["cost_usd"].sum() <= 0.0005 + trials["cost_usd"].max()
    assert len(vendor_runs.log_lines("received")) == len(trials)
    promise = "what is spent is at most that and one answer, which may think beyond its limit"
    assert f"stopped at the maximum cost of 0.0005 USD ({promise})" in capsys.readouterr().err
    assert promise in (vendor_runs.folder / "report.md").read_text()


@simulator("--ttft-ms 1 --gap-ms 0 --tokens 20 --thinking-tokens 40")
def test_thinking_that_uses_up_the_limit_misses_the_objective_and_names_the_remedy(
    vendor_runs: VendorRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--providers openai:m,openai-responses:m,ollama:m --max-tokens 30 --repeats 2 --slo failed<1%"
    assert vendor_runs.run(words) == 1
    said = capsys.readouterr()
    found = json.loads(said.out.splitlines()[-1])
    assert found["outcomes"] == {"empty": 6} and not found["slo"]["met"]
    remedies = [line for line in said.err.splitlines() if "raise max tokens, or lower the effort" in line]
    why = "no text, because thinking used up the token limit (raise max tokens, or lower the effort)"
    assert remedies == [f"empty answer: {why} (6 of 6 trials)"]
    assert "empty" in (vendor_runs.folder / "report.md").read_text()


@simulator("--ttft-ms 20 --gap-ms 1 --tokens 4 --effort-tokens low=0,high=800")
def test_hidden_thinking_of_an_effort_is_timed_and_paid(vendor_runs: VendorRuns) -> None:
    words = "--providers openai:m --effort low,high --repeats 2 --max-tokens 2000"
    assert vendor_runs.run(words, "--price", f"openai:m=0/{PRICE_USD * 1e6:g}") == 0
    sent_s = {line["request_id"]: line["at_s"] for line in vendor_runs.log_lines("sent") if line.get("seq") == 0}
    for trial in evaluation.load(vendor_runs.folder).trials.to_dict("records"):
        thinking = 800 if trial["effort"] == "high" else 0
        assert (trial["thinking_tokens"], trial["output_tokens"]) == (thinking, thinking + 4)
        assert trial["cost_usd"] == pytest.approx((thinking + 4) * PRICE_USD)
        true_s = sent_s[trial["trial_id"]]
        assert isinstance(true_s, float)
        assert_arrived_after_sends([trial["sent_monotonic_s"] + trial["ttft_s"]], [true_s])
        assert trial["ttft_s"] >= 0.02 + thinking / 1000 - 0.001


@simulator("--ttft-ms 30 --gap-ms 1 --tokens 8")
def test_upstream_and_the_servers_own_timings_are_columns_and_in_the_report(vendor_runs: VendorRuns) -> None:
    assert vendor_runs.run("--providers openrouter:m,groq:m,cerebras:m,ollama:m --repeats 2") == 0
    trials = evaluation.load(vendor_runs.folder).trials
    assert set(trials["model_served"]) == {"m"} and trials["upstream_request_id"].notna().all()
    routed = trials[trials["provider_served"].notna()]
    assert (
        set(routed["provider"]) == {"openrouter"}
        and set(routed["provider_served"]) == {"Simulated"}
        and len(routed) == 2
    )
    timed = trials[trials["provider"] != "openrouter"]
    assert (timed["server_prefill_s"] <= timed["ttft_s"]).all() and (timed["server_decode_s"] > 0).all()
    report = (vendor_runs.folder / "report.md").read_text()
    assert "openrouter:m was answered by: m at Simulated (2 of 2)" in report
    assert "- outside check: groq:m itself reports 30" in report


@simulator("--ttft-ms 1 --gap-ms 0 --tokens 8")
def test_router_is_priced_by_its_own_list(vendor_runs: VendorRuns) -> None:
    words = "--providers hf:steady,hf:steady:simulated --repeats 1 --no-warm-up --max-cost 1"
    assert vendor_runs.run(words) == 0
    trials = evaluation.load(vendor_runs.folder).trials.set_index("model")
    assert trials.loc["steady", "price_source"] == "the router's list (its dearest upstream)"
    assert trials.loc["steady:simulated", "price_source"] == "the router's list (simulated)"
    tokens = trials["input_tokens"].astype(float)
    for model, prices in (("steady", (0.3, 0.9)), ("steady:simulated", (0.3, 0.5))):
        cost_usd = (tokens[model] * prices[0] + 8 * prices[1]) / 1e6
        assert trials.loc[model, "cost_usd"] == pytest.approx(cost_usd)
