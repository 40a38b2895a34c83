"""The turns of a conversation in a run: each is sent with the answers to those before, once they have ended."""

from collections.abc import Iterable

from evaluation.backends.base import TimedResponse
from evaluation.prompts.conversation import Conversation
from evaluation.runner.messages import trial_messages
from evaluation.runner.trial import TrialContext, answer_text, trial_request
from evaluation.scenario import PlannedTrial


def group_turns(planned: Iterable[PlannedTrial]) -> list[tuple[PlannedTrial, ...]]:
    """Return the trials by conversation, in the order of the run; a prompt of one turn is a conversation of one."""
    result: dict[tuple[object, ...], list[PlannedTrial]] = {}
    for trial in planned:
        cell = trial.provider, trial.strategy, trial.transport, trial.effort
        result.setdefault((trial.repeat, trial.prompt.id, *cell, trial.level), []).append(trial)
    return [tuple(turns) for turns in result.values()]


def begin_conversation(context: TrialContext, first: PlannedTrial) -> Conversation | None:
    """Return the conversation that a trial begins; None if its prompt has no other turns."""
    if not first.prompt.turns:
        return None
    messages = trial_messages(first, context.nonce_seed(first), context.bodies)
    return Conversation(first.prompt, messages, context.trial_id(first))


async def prepare_next_turn(
    context: TrialContext, planned: PlannedTrial, conversation: Conversation, response: TimedResponse | None
) -> float | None:
    """Add the answer to a conversation, prepare the request of its next turn, and return when that is due.

    The time is on the context's clock, in seconds. None: the answer was not completed, so that no turn follows it.
    """
    if response is None or response.outcome != "completed":
        return None
    usage = response.usage
    known = usage.input_tokens is not None and usage.output_tokens is not None
    tokens = (usage.input_tokens or 0) + (usage.output_tokens or 0) - (usage.thinking_tokens or 0) if known else None
    turn = conversation.add_answer(answer_text(response), tokens)
    if turn is None:
        return None
    await context.backends.prepare(trial_request(context, planned, conversation))
    return response.stamps.first_end[-1].at_s + context.scenario.think_time_s(turn)
