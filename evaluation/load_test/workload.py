"""The prompts of a load test's workload: generated and measured before the test, in the process that starts Locust.

Locust's users read them from a file like any others, with a nonce of their own before each, so that no cache answers,
or behind what is shared. The nonce is part of the length that was asked for; as its tokens vary a little, so do the
lengths.
"""

import asyncio
import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from evaluation.load_test.chat_template import measure_template
from evaluation.prompts.prompt_file import Prompt
from evaluation.schema import atomic_write
from evaluation.workloads.bodies import BodyBuilder, TokenizerFinder
from evaluation.workloads.workload import PROMPTS_PER_SHAPE, Workload, make_prompts
from providers import ProviderRegistry
from providers.tokenizers import Tokenizer
from settings import Settings
from streaming.errors import UsageError
from streaming.trace import parse_json_object

PROMPTS_FILE = "prompts.jsonl"
WORKLOAD_FILE = "workload.json"
NONCE_BYTES = 6
_NONCES = 64
"""Nonces that are counted: their tokens vary by one or two."""


@dataclass(frozen=True, slots=True)
class AskedLengths:
    """A workload as a load test asked for it: `asked` has the input and output tokens of each prompt by its id."""

    workload: dict[str, Any]
    texts: dict[str, Any]
    asked: dict[str, list[int]]

    @property
    def template_tokens(self) -> int | None:
        """The tokens of the chat template of whoever was asked; None if they were not measured."""
        known = [facts.get("template_tokens") for facts in self.texts.values() if isinstance(facts, dict)]
        return next((tokens for tokens in known if isinstance(tokens, int)), None)


@dataclass(frozen=True, slots=True)
class LoadTarget:
    """The server that a load test asks, the model that requests name there, and its API key.

    `tokenizer` is the provider by whose tokenizer texts are measured.
    """

    url: str
    model: str
    key: str | None
    tokenizer: str


def write_workload(
    workload: Workload, folder: Path, target: LoadTarget, settings: Settings, count: int | None = None
) -> Path:
    """Write the prompts of a workload, measured by a provider's tokenizer, to a folder; return their file.

    Raises UsageError when the provider is unknown or its server stops counting tokens, OSError.
    """
    prompts = make_prompts(workload, count or PROMPTS_PER_SHAPE, seed=0)
    built, facts = asyncio.run(_build_with(ProviderRegistry(settings), prompts, target, settings))
    lines = (
        {"id": p.id, "prompt": p.text, "max_tokens": p.max_tokens}
        | ({"shared_chars": p.shared_chars} if p.shared_chars else {})
        for p in built
    )
    _write(folder / PROMPTS_FILE, "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines))
    asked = {p.id: [p.body.tokens, p.max_tokens or 0] for p in prompts if p.body is not None}
    lengths = AskedLengths(asdict(workload), facts, asked)
    _write(folder / WORKLOAD_FILE, json.dumps(asdict(lengths), indent=2) + "\n")
    return folder / PROMPTS_FILE


async def _build_with(
    registry: ProviderRegistry, prompts: Sequence[Prompt], target: LoadTarget, settings: Settings
) -> tuple[list[Prompt], dict[str, Any]]:
    try:
        built, facts = await build_texts(prompts, target.tokenizer, registry.find_tokenizer)
        tokenizer = await registry.find_tokenizer(target.tokenizer)
        template = await measure_template(target.url, target.model, target.key, tokenizer, settings)
    finally:
        await registry.aclose()
    return built, {name: known | {"template_tokens": template} for name, known in facts.items()}


async def build_texts(
    prompts: Sequence[Prompt], provider: str, find_tokenizer: TokenizerFinder
) -> tuple[list[Prompt], dict[str, Any]]:
    """Return the prompts with their texts, each with room for a nonce, and how they were measured.

    Raises UsageError.
    """
    tokenizer = await find_tokenizer(provider)
    spare = await _nonce_tokens(tokenizer)

    async def find_same(_: str) -> Tokenizer:
        return tokenizer

    builder, built = BodyBuilder(secrets.token_hex(4), find_same), []
    for prompt in prompts:
        assert prompt.body is not None  # those of a workload are generated
        tokens = max(prompt.body.tokens - spare, 1)
        body = replace(prompt.body, tokens=tokens, shared_tokens=min(prompt.body.shared_tokens, tokens - 1))
        await builder.build(provider, replace(prompt, body=body), "")
        text = builder.text(provider, prompt, "")
        shared_chars = min(builder.shared_chars(provider, body), len(text) - 1)
        built.append(replace(prompt, text=text, shared_chars=shared_chars))
    return built, builder.facts


async def _nonce_tokens(tokenizer: Tokenizer) -> int:
    """Return the mean number of tokens of a nonce before a text."""
    text = "The amber bridge"
    alone = await tokenizer.count(text)
    counts = [await tokenizer.count(f"[{secrets.token_hex(NONCE_BYTES)}] {text}") for _ in range(_NONCES)]
    return round(fmean(counts) - alone)


def read_workload(folder: Path) -> AskedLengths | None:
    """Return the workload of a load test; None if it had none. Raises UsageError when the file is invalid."""
    path = folder / WORKLOAD_FILE
    if not path.exists():
        return None
    fields = parse_json_object(path.read_text(encoding="utf-8", errors="replace"), str(path))
    asked = fields.get("asked")
    is_valid = isinstance(asked, dict) and all(
        isinstance(pair, list) and len(pair) == 2 and all(isinstance(n, int) for n in pair) for pair in asked.values()
    )
    if not is_valid or not isinstance(fields.get("workload"), dict) or not isinstance(fields.get("texts"), dict):
        raise UsageError(f"{path}: not a workload that a load test has written (copy the load test again)")
    return AskedLengths(fields["workload"], fields["texts"], fields["asked"])


def copy_workload(source: Path, folder: Path) -> None:
    """Copy the lengths of a workload, if there is one, to a new folder for a further load test with its prompts."""
    if (source / WORKLOAD_FILE).exists():
        folder.mkdir()
        _write(folder / WORKLOAD_FILE, (source / WORKLOAD_FILE).read_text(encoding="utf-8"))


def _write(path: Path, text: str) -> None:
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")
