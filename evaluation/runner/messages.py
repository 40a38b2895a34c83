"""The messages that a trial sends: those of its prompt after a nonce, or a text that a workload has generated."""

import hashlib

from evaluation.scenario import PlannedTrial
from evaluation.workloads.bodies import BodyBuilder
from streaming.messages import Message


def trial_messages(planned: PlannedTrial, seed: str, bodies: BodyBuilder) -> tuple[Message, ...]:
    """Return the messages that a trial sends; a generated text must have been built by `build_body`.

    `seed` is the id of the run, or of the trial if each has its own nonce: two runs may follow each other within the
    life of a cache.
    """
    if planned.prompt.body is None:
        return prompt_messages(planned, seed)
    return (Message("user", bodies.text(planned.provider, planned.prompt, _salt(planned, seed))),)


async def build_body(planned: PlannedTrial, seed: str, bodies: BodyBuilder) -> None:
    """Build the text of a trial whose prompt has none of its own. Raises UsageError."""
    await bodies.build(planned.provider, planned.prompt, _salt(planned, seed))


def prompt_messages(planned: PlannedTrial, seed: str) -> tuple[Message, ...]:
    """Return the messages of a trial's prompt, with its nonce if it has one."""
    if not planned.nonce:
        return planned.prompt.messages
    return planned.prompt.with_nonce(hashlib.sha256(_salt(planned, seed).encode()).hexdigest()[:12]).messages


def _salt(planned: PlannedTrial, seed: str) -> str:
    """Return what trials with equal texts have in common; prompts without a nonce have equal ones in all runs."""
    return f"{seed} {planned.nonce}" if planned.nonce else ""
