"""Tests of holding updates back for a browser that is behind."""

from ui.page_sessions.screen_progress import MAX_SILENCE_S, MAX_WAITING, ScreenProgress


def send_updates(screen: ScreenProgress, count: int, now: float) -> None:
    for _ in range(count):
        screen.send(now)


def count_sent(screen: ScreenProgress, now: float) -> int:
    """Send updates until the next one is held back; return how many wait to be drawn."""
    number = screen.send(now)
    count = 1
    while not screen.is_behind(now):
        number = screen.send(now)
        count += 1
    screen.report(number, now)
    return count


def test_browser_that_has_reported_nothing_is_sent_every_update() -> None:
    screen = ScreenProgress()
    send_updates(screen, 10 * MAX_WAITING, 0.0)
    assert not screen.is_behind(0.0)


def test_update_is_held_back_until_the_browser_has_drawn_the_last_ones() -> None:
    screen = ScreenProgress()
    screen.send(1.0)
    screen.report(1, 1.05)
    send_updates(screen, 2, 1.1)
    assert screen.is_behind(1.2)
    screen.report(2, 1.3)
    assert not screen.is_behind(1.3)


def test_as_many_updates_wait_as_are_on_their_way_in_the_shortest_time_of_a_report() -> None:
    for took_s, waiting in ((0.05, 2), (0.25, 5), (5.0, MAX_WAITING + 1)):
        screen = ScreenProgress()
        screen.send(0.0)
        screen.report(1, took_s)
        send_updates(screen, 1, 10.0)
        screen.report(2, 30.0)  # a busy moment does not count
        assert count_sent(screen, 30.0) == waiting


def test_updates_go_on_when_the_browser_stays_silent() -> None:
    screen = ScreenProgress()
    screen.send(0.9)
    screen.report(1, 1.0)
    send_updates(screen, 2 * MAX_WAITING, 1.0)
    assert screen.is_behind(1.0 + MAX_SILENCE_S - 0.1) and not screen.is_behind(1.0 + MAX_SILENCE_S)


def test_silent_browser_is_sent_one_update_at_a_time() -> None:
    screen = ScreenProgress()
    screen.send(0.9)
    screen.report(1, 1.0)
    send_updates(screen, 2 * MAX_WAITING, 1.0)
    screen.send(1.0 + MAX_SILENCE_S)
    assert screen.is_behind(1.0 + 1.9 * MAX_SILENCE_S) and not screen.is_behind(1.0 + 2.1 * MAX_SILENCE_S)


def test_report_of_an_update_that_was_never_sent_is_ignored() -> None:
    screen = ScreenProgress()
    send_updates(screen, 4, 0.9)
    screen.report(1, 1.0)
    screen.report(10**9, 1.1)
    assert screen.is_behind(1.1)
