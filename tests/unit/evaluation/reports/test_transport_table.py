"""Runs over several transports: separate groups, and overhead paired with the first within each block."""

from pathlib import Path

from evaluation import tables
from evaluation.analysis import compare, slo, slo_checks, summary
from evaluation.prompts.prompt_file import Prompt
from evaluation.reports import charts, markdown, transports
from evaluation.scenario import PlannedTrial, plan
from evaluation.schema import EventRow
from tests.unit.evaluation import factories

PROMPTS = tuple(Prompt(f"p{number}", f"Question {number}?") for number in range(8))
SCENARIO = factories.make_scenario(("sim:a",), transport=("in-process", "sse", "websocket"), prompts=PROMPTS, repeats=1)
ADDED_DELAY_S = {"in-process": 0.0, "sse": 0.002, "websocket": 0.005}


def transport_events(planned: PlannedTrial) -> list[EventRow]:
    """Return the source chunks of a trial in process, and its delivered chunks, later by the transport's delay."""
    rows = [] if planned.transport != "in-process" else factories.make_gap_events(planned, 0.02, 0.03)
    later_s = ADDED_DELAY_S[planned.transport]
    delivered = [
        row._replace(kind="delivered_text", source_s=None, delivered_s=(row.source_s or 0.0) + later_s)
        for row in factories.make_gap_events(planned, 0.02, 0.03 + later_s)
    ]
    return [row._replace(seq=seq) for seq, row in enumerate([*rows, *delivered])]


def make_run(folder: Path) -> tables.Run:
    rows = []
    for planned in plan(SCENARIO):
        later_s = ADDED_DELAY_S[planned.transport]
        latencies = {"delivered_ttft_s": 0.2 + later_s, "delivered_e2e_s": 0.3 + 2 * later_s, "ttft_s": 0.2 + later_s}
        more = {"connect_s": 0.001, "stamp_source": "kernel"} if later_s else {"stamp_source": "in-process"}
        rows.append(
            (
                factories.make_trial(planned, fresh=True, transport=planned.transport, **latencies, **more),
                transport_events(planned),
            )
        )
    folder.mkdir()
    factories.write_run(folder, SCENARIO, rows)
    return tables.from_journal(folder)


def test_transports_form_separate_groups(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    result = summary.groups(run)
    assert [group.name for group in result] == ["sim:a", "sim:a over sse", "sim:a over websocket"]
    assert [(group.trials, group.gaps) for group in result] == [(8, 16)] * 3
    assert {series.name for series in charts.build_charts(run)[0].series} == {
        "sim:a (simulated)", "sim:a over sse (simulated)", "sim:a over websocket (simulated)",
    }  # fmt: skip
    verdicts = slo_checks.check_objectives(run, slo.parse_slo("ttft_max<203ms"))
    assert {verdict.provider: verdict.met for verdict in verdicts} == {
        "sim:a": True, "sim:a over sse": True, "sim:a over websocket": False,
    }  # fmt: skip
    changes = compare.compare(run, run).changes
    assert {change.cell.provider for change in changes} == {group.name for group in result}


def test_transport_overhead_is_paired_within_block(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    lines = list(transports.transport_table(run))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:4]]
    assert [row[:3] for row in cells] == [["sse", "sim:a (simulated)", "8"], ["websocket", "sim:a (simulated)", "8"]]
    assert cells[0][3:5] == ["2.00 [2.00, 2.00]", "4.00 [4.00, 4.00]"]
    assert cells[1][3:5] == ["5.00 [5.00, 5.00]", "10.0 [10.0, 10.0]"]
    gap = summary.transport_differences(run)[2].estimate
    assert gap.n == 8 and gap.value is not None and abs(gap.value - 0.99 * 0.002) < 1e-9, "p99 of two gaps"
    assert cells[0][6:] == ["1.00", "kernel"]
    assert "## Transport overhead" in markdown.markdown(run)
    assert "over the transports: a service started for this run" in markdown.markdown(run)


def test_single_transport_run_has_no_transport_table(tmp_path: Path) -> None:
    expected = factories.make_scenario(("sim:a",), transport=("sse",), repeats=1)
    factories.write_run(
        tmp_path, expected, [(factories.make_trial(p, transport="sse"), transport_events(p)) for p in plan(expected)]
    )
    run = tables.from_journal(tmp_path)
    assert list(transports.transport_table(run)) == []
    assert [group.name for group in summary.groups(run)] == ["sim:a"]
