"""One stream under several strategies: the live tally, and the pictures of buffering."""

import re

from hypothesis import given
from hypothesis import strategies as some

from streaming import strategies
from streaming.events import Finish, TextDelta, Timed
from streaming.replay import replay
from ui import buffering
from ui.sides import Side, update_bytes

STREAM = [*(Timed(i * 0.02, TextDelta("word ")) for i in range(50)), Timed(1.0, Finish("stop"))]


def played(name: str, events: list[Timed] = STREAM) -> Side:
    """Feed a side as the page does: at each event, and whenever it wants to be woken."""
    side = Side(strategies.parse(name).make())
    for timed in events:
        while side.wake_at is not None and side.wake_at <= timed.at_s:
            side.step([], side.wake_at)
        side.step([timed.event], timed.at_s)
    while side.wake_at is not None:
        side.step([], side.wake_at)
    return side


def test_a_side_delivers_what_replay_delivers_when_replay_does() -> None:
    for name in ("direct", "batch:100ms", "debounce:30ms", "pace:30tps", "whole"):
        expected = [
            (timed.at_s, len(timed.event.text))
            for timed in replay(STREAM, strategies.parse(name).make())
            if isinstance(timed.event, TextDelta)
        ]
        side = played(name)
        assert side.released == expected and side.ended
        assert side.text == "word " * 50


def test_direct_costs_updates_and_bytes_where_whole_costs_delay() -> None:
    direct, batch, whole = (played(name).tally() for name in ("direct", "batch:100ms", "whole"))
    assert (direct.chunks, direct.updates) == (50, 50) and (direct.delay_mean_s, direct.delay_max_s) == (0.0, 0.0)
    assert whole.updates == 1 and whole.delay_max_s == 1.0
    assert direct.sent_bytes > 3 * batch.sent_bytes > 3 * whole.sent_bytes
    assert batch.delay_mean_s is not None and batch.delay_max_s is not None
    assert 0 < batch.delay_mean_s < batch.delay_max_s <= 0.1 + 1e-9


def test_before_any_text_the_delay_is_unknown() -> None:
    tally = Side(strategies.parse("direct").make()).tally()
    assert (tally.chunks, tally.updates, tally.sent_bytes) == (0, 0, 0)
    assert tally.delay_mean_s is None and tally.delay_max_s is None


@given(some.text(max_size=50))
def test_an_update_grows_by_its_text_alone(text: str) -> None:
    assert update_bytes(text) >= update_bytes("") + len(text)


def test_four_pictures_are_drawn_of_what_was_received() -> None:
    drawn = buffering.pictures(STREAM, 0.1)
    assert re.findall(r"<code>([^<]+)</code>", drawn) == ["direct", "debounce:100ms", "batch:100ms", "whole"]
    said = re.findall(r"<br>50 chunks, (\d+) updates, [\d.]+ kB, (\d+) ms later", drawn)
    updates = [int(count) for count, _ in said]
    delays = [int(ms) for _, ms in said]
    assert updates == [50, 1, 11, 1], "a stream that is never quiet for 100 ms is debounced to its limit"
    assert delays[0] == 0 < delays[2] < delays[3]
    assert drawn.count("<svg") == 4 and drawn.count('class="sg-in"') == 4 * 50


def test_without_text_there_is_nothing_to_draw() -> None:
    assert buffering.pictures([Timed(0.0, Finish("stop"))], 0.1) == ""
