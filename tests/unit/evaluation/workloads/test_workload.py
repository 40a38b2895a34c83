"""Workloads by tokens: their forms, the lengths that are drawn, and texts as long as asked."""

import asyncio
import statistics
from collections.abc import Awaitable, Callable

import pytest

from evaluation.prompts.prompt_file import Prompt
from evaluation.workloads.bodies import BodyBuilder
from evaluation.workloads.text import MIN_CLOSING_TOKENS, TextFitter, iter_pieces
from evaluation.workloads.workload import PRESETS, Shape, TokenLength, Workload, make_prompts, parse_workload
from providers.models.tokens import token_counter_for_model
from providers.tokenizers import Tokenizer, offline_tokenizer
from streaming.errors import ProtocolError, UsageError
from streaming.events import Usage

ENCODED = offline_tokenizer(token_counter_for_model("gpt-4.1"))
ESTIMATED = offline_tokenizer(None)


def finder(tokenizer: Tokenizer) -> Callable[[str], Awaitable[Tokenizer]]:
    async def find(_: str) -> Tokenizer:
        return tokenizer

    return find


def build_texts(workload: str, *, count: int = 2, shared: float = 0.0, tokenizer: Tokenizer = ENCODED) -> list[str]:
    prompts = make_prompts(Workload(parse_workload(workload), shared), count, seed=1)

    async def build() -> list[str]:
        bodies = BodyBuilder("run", finder(tokenizer))
        for number, prompt in enumerate(prompts):
            await bodies.build("p", prompt, f"run {number}")
        return [bodies.text("p", prompt, f"run {number}") for number, prompt in enumerate(prompts)]

    return asyncio.run(build())


def count_tokens(text: str, tokenizer: Tokenizer = ENCODED) -> int:
    async def count() -> int:
        return await tokenizer.count(text)

    return asyncio.run(count())


def test_workload_forms_have_means_and_spreads() -> None:
    assert parse_workload("1000/300") == (Shape("1000/300", TokenLength(1000), TokenLength(300)),)
    spread = Shape("1000±200/300±50", TokenLength(1000, 200), TokenLength(300, 50))
    assert parse_workload("1000±200/300±50") == parse_workload("1000+-200/300+-50") == (spread,)
    first, second = parse_workload("chat, 50/32", "normal")
    assert (first.name, first.spread, PRESETS["chat"].spread) == ("chat", "normal", "lognormal")
    assert second.input.mean == 50


@pytest.mark.parametrize(
    "text", ["", "1000", "0/5", "5/0", "a/b", "1/2/3", "-1/5", "10/5,10/5", "99999999/1", "10±11/5"]
)
def test_invalid_workload_is_an_error(text: str) -> None:
    with pytest.raises(UsageError, match="workload: "):
        parse_workload(text)


def test_spread_is_wide_only_where_lengths_keep_their_mean() -> None:
    (shape,) = parse_workload("10±30/5", "lognormal")
    prompts = make_prompts(Workload((shape,)), 20_000, seed=0)
    assert statistics.mean(prompt.body.tokens for prompt in prompts if prompt.body) == pytest.approx(10, rel=0.1)
    with pytest.raises(UsageError, match="spread too wide"):
        parse_workload("10±31/5", "lognormal")


@pytest.mark.parametrize("spread", ["normal", "lognormal"])
def test_drawn_lengths_have_the_mean_and_the_deviation(spread: str) -> None:
    shapes = parse_workload("1000±200/300±50", spread)  # type: ignore[arg-type]  # the parameter is one of the two
    prompts = make_prompts(Workload(shapes), 4000, seed=3)
    inputs = [prompt.body.tokens for prompt in prompts if prompt.body]
    outputs = [prompt.max_tokens for prompt in prompts if prompt.max_tokens]
    assert statistics.mean(inputs) == pytest.approx(1000, rel=0.01)
    assert statistics.stdev(inputs) == pytest.approx(200, rel=0.05)
    assert statistics.mean(outputs) == pytest.approx(300, rel=0.01)
    assert make_prompts(Workload(shapes), 5, seed=3) == prompts[:5], "more prompts keep the first ones"
    assert make_prompts(Workload(shapes), 5, seed=4) != prompts[:5]


@pytest.mark.parametrize("tokenizer", [ENCODED, ESTIMATED], ids=["encoding", "estimate"])
@pytest.mark.parametrize("style", ["prose", "code"])
def test_text_has_as_many_tokens_as_asked(tokenizer: Tokenizer, style: str) -> None:
    async def fit() -> list[tuple[int, int]]:
        fitter, result = TextFitter(tokenizer.count), []
        for tokens in (1, 2, 7, 50, 333, 1000):
            pieces = iter_pieces(f"seed {tokens}", style)  # type: ignore[arg-type]  # the parameter is one of the two
            text = await fitter.fit(pieces, tokens, closing=" Go on." if tokens >= 50 else "")
            result.append((tokens, await tokenizer.count(text)))
        return result

    assert all(abs(found - asked) <= 1 for asked, found in asyncio.run(fit()))


def test_texts_differ_from_their_first_words_on_and_end_with_a_request() -> None:
    texts = build_texts("200/32", count=20)
    assert len({" ".join(text.split()[:2]) for text in texts}) == 20
    assert all(text.endswith("of your own.") for text in texts)
    assert build_texts("200/32", count=20) == texts, "equal seeds have equal texts"
    assert build_texts("code", count=1)[0].endswith("line by line.")
    assert not build_texts(f"{MIN_CLOSING_TOKENS - 1}/5", count=1)[0].endswith("of your own.")


def test_shared_prefix_is_the_same_for_a_shape_and_as_long_as_asked() -> None:
    texts = build_texts("500/32,200/32", shared=0.8)
    for pair, tokens in ((texts[:2], 400), (texts[2:], 160)):
        common = next(place for place, (a, b) in enumerate(zip(*pair, strict=False)) if a != b)
        assert tokens - 4 <= count_tokens(pair[0][:common]) <= tokens + 2
    assert texts[0][:20] != texts[2][:20], "each shape has its own prefix"
    assert [count_tokens(text) for text in texts] == pytest.approx([500, 500, 200, 200], abs=1)


def test_template_is_measured_once_by_what_was_reported() -> None:
    async def measure() -> BodyBuilder:
        bodies = BodyBuilder("run", finder(ENCODED))
        await bodies.measure_template("p", "Say hello.", Usage(33, 4, 0, 0))
        (prompt,) = make_prompts(Workload(parse_workload("20/5")), 1, seed=0)
        await bodies.build("p", prompt, "")
        await bodies.measure_template("p", "Say hello.", Usage(33, 4, 0, 0, source="estimated"))
        assert bodies.facts == {"p": {"lengths_by": "encoding", "template_tokens": None}}
        await bodies.measure_template("p", "Say hello.", Usage(33, 4, 0, 0))
        await bodies.measure_template("p", "Say hello.", Usage(99, 4, 0, 0))
        return bodies

    assert asyncio.run(measure()).facts == {"p": {"lengths_by": "encoding", "template_tokens": 30}}


def test_server_that_stops_counting_is_a_usage_error() -> None:
    async def fail(_: str) -> int:
        raise ProtocolError("gone")

    bodies = BodyBuilder("run", finder(Tokenizer("server", fail)))
    (prompt,) = make_prompts(Workload(parse_workload("20/5")), 1, seed=0)
    with pytest.raises(UsageError, match="workload: the texts for p cannot be measured, gone"):
        asyncio.run(bodies.build("p", prompt, ""))
    asyncio.run(bodies.build("p", Prompt("own", "A text of its own"), ""))
