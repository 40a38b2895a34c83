"""Throughput and goodput of a load: the window, the share of an answer in it, and the time in which nobody is asked."""

import pytest

from evaluation.metrics.load import (
    LOAD_EXAMPLE,
    LOAD_METRIC_BY_NAME,
    LoadAnswer,
    add_slices,
    measure_load,
    remove_idle_time,
)

SLOTS, SERVICE_S, TTFT_S = 4, 2.0, 0.5
WORKED_BY_HAND = {
    "throughput": 2.0, "goodput": 1.5, "input_throughput": 100.0, "output_throughput": 400.0, "total_throughput": 500.0,
}  # fmt: skip


def answer_streams(streams: int, each: int) -> list[LoadAnswer]:
    """Return the answers of a closed loop of `streams` at a server of `SLOTS` slots, first come, first served."""
    free_s = [0.0] * SLOTS
    ready_s = [0.0] * streams
    answers = []
    for _ in range(each):
        for stream in range(streams):
            slot = free_s.index(min(free_s))
            began_s = max(free_s[slot], ready_s[stream])
            end_s = began_s + SERVICE_S
            answers.append(LoadAnswer(ready_s[stream], began_s + TTFT_S, end_s, True, None, 10, 30))
            free_s[slot] = ready_s[stream] = end_s
    return answers


@pytest.mark.parametrize("name", WORKED_BY_HAND)
def test_load_metric_of_example_is_worked_by_hand(name: str) -> None:
    assert LOAD_METRIC_BY_NAME[name].function(LOAD_EXAMPLE) == pytest.approx(WORKED_BY_HAND[name])


@pytest.mark.parametrize(("streams", "expected"), [(1, 0.5), (2, 1.0), (4, 2.0), (8, 2.0), (16, 2.0)])
def test_closed_loop_has_throughput_of_server_whatever_the_ramp(streams: int, expected: float) -> None:
    slices, is_cut = measure_load(answer_streams(streams, 12), streams)
    total = add_slices(slices)
    assert is_cut == (streams > 1)
    assert LOAD_METRIC_BY_NAME["throughput"].function(total) == pytest.approx(expected, rel=1e-9)
    assert LOAD_METRIC_BY_NAME["output_throughput"].function(total) == pytest.approx(expected * 30, rel=1e-9)


def test_queue_that_grows_delivers_nothing_meanwhile() -> None:
    """Requests at twice the rate that the server can answer wait ever longer, and do not raise its throughput."""
    answers = [LoadAnswer(i * 0.5, i * 1.0 + 0.2, i * 1.0 + 1.0) for i in range(100)]
    slices, is_cut = measure_load(answers, None)
    assert is_cut and LOAD_METRIC_BY_NAME["throughput"].function(add_slices(slices)) == pytest.approx(1.0, rel=0.01)


def test_window_of_few_answers_is_from_first_start_to_last_end() -> None:
    slices, is_cut = measure_load(answer_streams(4, 1), 4)
    assert (
        not is_cut
        and add_slices(slices).answers == pytest.approx(4)
        and add_slices(slices).duration_s == pytest.approx(2.0)
    )
    assert measure_load([], 4) == ([], False)


def test_answer_in_one_piece_counts_at_its_end() -> None:
    answers = [LoadAnswer(float(i), None, float(i + 1)) for i in range(10)]
    slices, _ = measure_load(answers, 1)
    assert [part.answers for part in slices] == [1.0] * 10


def test_tokens_unknown_for_one_completed_answer_are_unknown_for_all() -> None:
    answers = [LoadAnswer(0.0, 0.5, 1.0, True, None, 10, None), LoadAnswer(1.0, 1.5, 2.0, True, None, 10, 20)]
    total = add_slices(measure_load(answers, 1)[0])
    assert total.output_tokens is None and total.input_tokens == pytest.approx(20)
    assert LOAD_METRIC_BY_NAME["total_throughput"].function(total) is None and total.good_answers is None


def test_failed_answer_is_no_answer_but_its_reported_tokens_count() -> None:
    answers = [LoadAnswer(0.0, 0.5, 1.0, True, True, 10, 20), LoadAnswer(1.0, None, 2.0, False, False, 10, None)]
    total = add_slices(measure_load(answers, 1)[0])
    assert (total.answers, total.good_answers, total.input_tokens, total.output_tokens) == (1, 1, 20, 20)


def test_time_in_which_another_provider_answers_is_left_out() -> None:
    answers = [LoadAnswer(i * 10.0, i * 10.0 + 0.5, i * 10.0 + 2.0) for i in range(10)]
    total = add_slices(measure_load(remove_idle_time(answers), 1)[0])
    assert LOAD_METRIC_BY_NAME["throughput"].function(total) == pytest.approx(0.5)
