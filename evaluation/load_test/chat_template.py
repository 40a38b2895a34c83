"""The length of a server's chat template, measured by one short request before a load test."""

import httpx2

from evaluation.runner.trial import WARM_UP_PROMPT
from providers.http.client import ServiceConfig
from providers.http.errors import ServiceLabels
from providers.tokenizers import Tokenizer
from settings import Settings
from streaming.http.proxies import proxy_for

KEY_VARIABLE = "LOAD_KEY"
_TIMEOUT_S = 60.0


async def measure_template(
    url: str, model: str, key: str | None, tokenizer: Tokenizer, settings: Settings
) -> int | None:
    """Return the tokens that a server reports beyond those of a prompt's text; None where it reports none.

    All users' services take the OpenAI API's requests, by which this is asked.
    """
    labels = ServiceLabels("the service", url, KEY_VARIABLE, "--url")
    config = ServiceConfig(labels, proxy=proxy_for(url, settings.variables), certificates=settings.certificates)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    body = {"model": model, "messages": [{"role": "user", "content": WARM_UP_PROMPT}], "max_tokens": 1}
    address = f"{url.rstrip('/').removesuffix('/v1')}/v1/chat/completions"
    try:
        async with httpx2.AsyncClient(**config.client_kwargs(httpx2), headers=headers) as client:
            response = await client.post(address, json=body, timeout=_TIMEOUT_S)
            reported = response.raise_for_status().json()["usage"]["prompt_tokens"]
    except (httpx2.HTTPError, ValueError, KeyError, TypeError):
        return None
    return reported - await tokenizer.count(WARM_UP_PROMPT) if isinstance(reported, int) else None
