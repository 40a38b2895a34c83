"""The prompts of a load test's workload: their lengths with a nonce, and the columns of the rows."""

import asyncio
import json
import secrets
from pathlib import Path
from statistics import fmean

import pytest

import evaluation
from evaluation.load_test import import_answers
from evaluation.load_test.workload import WORKLOAD_FILE, LoadTarget, build_texts, write_workload
from evaluation.prompts.prompt_file import read_prompts
from evaluation.workloads.workload import Workload, make_prompts, parse_workload
from providers.models.tokens import token_counter_for_model
from providers.tokenizers import Tokenizer, offline_tokenizer
from settings import Settings
from streaming.errors import UsageError
from tests.unit.locustfiles.answer_factories import HEADER, make_answer, write_answers

WORKLOAD = Workload(parse_workload("200/30,60/8"))


def test_texts_with_a_nonce_are_as_long_as_asked_by_the_models_encoding() -> None:
    counter = token_counter_for_model("gpt-4o")
    assert counter is not None

    async def find_tokenizer(_: str) -> Tokenizer:
        return offline_tokenizer(counter)

    prompts = make_prompts(WORKLOAD, 12, seed=0)
    built, facts = asyncio.run(build_texts(prompts, "openai:gpt-4o", find_tokenizer))
    assert facts["openai:gpt-4o"]["lengths_by"] == "encoding" and len({prompt.text for prompt in built}) == 24
    counts = [counter(prompt.with_nonce(secrets.token_hex(6)).text) for prompt in built]
    assert fmean(counts[:12]) == pytest.approx(200, rel=0.01) and fmean(counts[12:]) == pytest.approx(60, rel=0.02)


def test_rows_have_the_lengths_that_were_asked(tmp_path: Path) -> None:
    target = LoadTarget("http://127.0.0.1:9", "sim:steady", None, "sim:steady")
    file = write_workload(WORKLOAD, tmp_path, target, Settings({}), count=2)
    facts = json.loads((tmp_path / WORKLOAD_FILE).read_text())
    assert facts["texts"]["sim:steady"]["template_tokens"] is None, "nobody answers at this address"
    facts["texts"]["sim:steady"]["template_tokens"] = 7
    (tmp_path / WORKLOAD_FILE).write_text(json.dumps(facts))
    prompts = read_prompts(file)
    assert [(prompt.id, prompt.max_tokens) for prompt in prompts] == [
        ("200/30#1", 30), ("200/30#2", 30), ("60/8#1", 8), ("60/8#2", 8),
    ]  # fmt: skip
    answers = [make_answer(number, prompt_id=prompt.id) for number, prompt in enumerate(prompts, start=1)]
    write_answers(tmp_path, *answers, header={**HEADER, "fresh": True})
    import_answers.write_journal(tmp_path)
    run = evaluation.load(tmp_path)
    assert run.trials["asked_input_tokens"].tolist() == [200, 200, 60, 60] and run.trials["fresh"].all()
    assert run.trials["asked_output_tokens"].tolist() == [30, 30, 8, 8]
    assert run.manifest["scenario"]["workload"]["shapes"][0]["input"]["mean"] == 200
    assert run.manifest["workload_texts"]["sim:steady"]["lengths_by"] == "estimate"
    assert set(run.trials["template_tokens"]) == {7}


@pytest.mark.parametrize("share", [0.8, 1.0])
def test_nonce_of_a_request_is_behind_the_shared_prefix(share: float) -> None:
    async def find_tokenizer(_: str) -> Tokenizer:
        return offline_tokenizer(None)

    prompts = make_prompts(Workload(parse_workload("200/5,100/5"), share), 3, seed=0)
    built, _ = asyncio.run(build_texts(prompts, "sim", find_tokenizer))
    for own in (built[:3], built[3:]):
        first, second = own[0].with_nonce("a" * 12).text, own[1].with_nonce("b" * 12).text
        shared = first.partition("[" + "a" * 12)[0]
        assert len(shared) / len(first) == pytest.approx(share, abs=0.1)
        assert second.startswith(shared + "[" + "b" * 12), "what differs first is the nonce"
    assert built[0].text[:40] != built[3].text[:40], "each shape has a prefix of its own"


def test_prefix_without_a_rest_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(
        '{"id": "a", "prompt": "Hello", "shared_chars": 4}\n{"id": "b", "prompt": "Hello", "shared_chars": 5}'
    )
    with pytest.raises(UsageError, match="line 2: shared_chars is as long as the prompt"):
        read_prompts(file)


def test_load_test_with_a_shared_prefix_has_no_fresh_prompts(tmp_path: Path) -> None:
    write_answers(tmp_path, make_answer(), header={**HEADER, "fresh": True})
    (tmp_path / WORKLOAD_FILE).write_text(json.dumps({"workload": {"shared_prefix": 0.5}, "texts": {}, "asked": {}}))
    assert not import_answers.read_answers(tmp_path).is_fresh


def test_damaged_workload_is_named(tmp_path: Path) -> None:
    write_answers(tmp_path, make_answer())
    (tmp_path / WORKLOAD_FILE).write_text(json.dumps({"workload": {}, "texts": {}, "asked": {"a": [1]}}))
    with pytest.raises(UsageError, match=r"workload\.json: not a workload"):
        import_answers.read_answers(tmp_path)
