"""The generated texts of a run's trials, as long as asked by each provider's own tokenizer."""

from collections.abc import Awaitable, Callable
from typing import Any

from evaluation.prompts.prompt_file import BLOCK_TOKENS, BodySpec, Prompt
from evaluation.workloads.text import CLOSINGS, MIN_CLOSING_TOKENS, SEPARATORS, TextFitter, iter_pieces
from providers.tokenizers import Tokenizer, offline_tokenizer
from streaming.errors import StreamError, UsageError
from streaming.events import Usage

TokenizerFinder = Callable[[str], Awaitable[Tokenizer]]
"""Returns the tokenizer of a provider by its full name."""


async def find_no_tokenizer(_: str) -> Tokenizer:
    """Return an estimate for any provider."""
    return offline_tokenizer(None)


class BodyBuilder:
    """Builds texts before the load and hands them out afterwards, and keeps the length of each chat template.

    `run_id` makes the shared prefix of a run its own: two runs may follow each other within the life of a cache.
    """

    def __init__(self, run_id: str = "", find_tokenizer: TokenizerFinder = find_no_tokenizer) -> None:
        self._run_id = run_id
        self._find_tokenizer = find_tokenizer
        self._fitters: dict[str, TextFitter] = {}
        self._sources: dict[str, str] = {}
        self._prefixes: dict[tuple[str, BodySpec], str] = {}
        self._blocks: dict[tuple[str, int, int], str] = {}
        self._texts: dict[tuple[str, str, str], str] = {}
        self._template_tokens: dict[str, int] = {}

    @property
    def facts(self) -> dict[str, dict[str, Any]]:
        """How the texts of each provider were measured, and the tokens of its chat template, for the manifest."""
        return {
            name: {"lengths_by": source, "template_tokens": self.template_tokens(name)}
            for name, source in self._sources.items()
        }

    def template_tokens(self, provider: str) -> int | None:
        """Return the tokens of a provider's chat template; None if they were not measured."""
        return self._template_tokens.get(provider)

    async def build(self, provider: str, prompt: Prompt, salt: str) -> None:
        """Build the text of a prompt, if it has one to be generated. Prompts of different salts have different texts.

        Raises UsageError when the provider's server stops counting tokens.
        """
        body, key = prompt.body, (provider, prompt.id, salt)
        if body is None or key in self._texts:
            return
        try:
            self._texts[key] = await self._make_text(provider, body, f"{salt} {prompt.id}")
        except StreamError as error:
            raise UsageError(f"workload: the texts for {provider} cannot be measured, {error}") from None

    async def _make_text(self, provider: str, body: BodySpec, seed: str) -> str:
        fitter = await self._fitter(provider)
        if body.blocks:
            return await self._join_blocks(provider, body, fitter)
        opening = await self._shared_prefix(provider, body, fitter) if body.shared_tokens else ""
        closing = CLOSINGS[body.style] if body.tokens - body.shared_tokens >= MIN_CLOSING_TOKENS else ""
        return await fitter.fit(iter_pieces(seed, body.style), body.tokens, opening=opening, closing=closing)

    async def _join_blocks(self, provider: str, body: BodySpec, fitter: TextFitter) -> str:
        """Return the text of a trace's request: blocks of equal numbers are equal bytes in the whole run."""
        lengths = [BLOCK_TOKENS] * (len(body.blocks) - 1)
        lengths.append(body.tokens - sum(lengths))
        parts = [
            await self._block(provider, block, tokens, fitter)
            for block, tokens in zip(body.blocks, lengths, strict=True)
        ]
        return "".join(parts).lstrip()

    async def _block(self, provider: str, block: int, tokens: int, fitter: TextFitter) -> str:
        key = provider, block, tokens
        if key not in self._blocks:
            pieces = iter_pieces(f"{self._run_id} block {block}", "prose")
            # The space before it is part of its first word's token in all encodings that join words.
            self._blocks[key] = await fitter.fit(pieces, tokens, opening=" ")
        return self._blocks[key]

    def text(self, provider: str, prompt: Prompt, salt: str) -> str:
        """Return a text that was built."""
        return self._texts[provider, prompt.id, salt]

    def shared_chars(self, provider: str, body: BodySpec) -> int:
        """Return how many of the first characters of a text that was built are those of its whole shape."""
        return len(self._prefixes.get((provider, body), ""))

    async def measure_template(self, provider: str, prompt: str, usage: Usage) -> None:
        """Measure a provider's chat template once, by what it reported for a prompt beyond the tokens of its text."""
        known = provider in self._template_tokens or provider not in self._fitters
        if known or usage.source != "reported" or not usage.input_tokens:
            return
        self._template_tokens[provider] = usage.input_tokens - await self._fitters[provider].count(prompt)

    async def _fitter(self, provider: str) -> TextFitter:
        if provider not in self._fitters:
            tokenizer = await self._find_tokenizer(provider)
            self._fitters[provider] = TextFitter(tokenizer.count)
            self._sources[provider] = tokenizer.source
        return self._fitters[provider]

    async def _shared_prefix(self, provider: str, body: BodySpec, fitter: TextFitter) -> str:
        key = provider, body
        if key not in self._prefixes:
            pieces = iter_pieces(f"{self._run_id} {body.shape}", body.style)
            self._prefixes[key] = await fitter.fit_prefix(pieces, body.shared_tokens) + SEPARATORS[body.style]
        return self._prefixes[key]
