"""Several transports in tables: told apart by name, and paired with the first within each block."""

from pathlib import Path

from evaluation import compare, report, slo, summary, tables, views, wires_report
from evaluation.record import EventRow
from evaluation.scenario import Planned, plan
from tests.unit.evaluation import made

WANTED = made.scenario(("sim:a",), transport=("in-process", "sse", "websocket"), repeats=4)
LATER_S = {"in-process": 0.0, "sse": 0.002, "websocket": 0.005}


def over_wire(planned: Planned) -> list[EventRow]:
    """Give the same chunks at the reader alone."""
    rows = [] if planned.transport != "in-process" else made.gaps(planned, 0.02, 0.03)
    later_s = LATER_S[planned.transport]
    delivered = [
        row._replace(kind="delivered_text", source_s=None, delivered_s=(row.source_s or 0.0) + later_s)
        for row in made.gaps(planned, 0.02, 0.03 + later_s)
    ]
    return [row._replace(seq=seq) for seq, row in enumerate([*rows, *delivered])]


def written(folder: Path) -> tables.Run:
    rows = []
    for planned in plan(WANTED):
        later_s = LATER_S[planned.transport]
        figures = {"delivered_ttft_s": 0.2 + later_s, "delivered_e2e_s": 0.3 + 2 * later_s, "ttft_s": 0.2 + later_s}
        more = {"connect_s": 0.001, "stamp_source": "kernel"} if later_s else {"stamp_source": "in-process"}
        rows.append((made.trial(planned, transport=planned.transport, **figures, **more), over_wire(planned)))
    folder.mkdir()
    made.write(folder, WANTED, rows)
    return tables.from_journal(folder)


def test_every_wire_is_a_group_of_its_own(tmp_path: Path) -> None:
    run = written(tmp_path / "run")
    found = summary.groups(run)
    assert [group.name for group in found] == ["sim:a", "sim:a over sse", "sim:a over websocket"]
    assert [(group.trials, group.gaps) for group in found] == [(8, 16)] * 3
    assert {series.name for series in views.views(run)[0].series} == {
        "sim:a (simulated)", "sim:a over sse (simulated)", "sim:a over websocket (simulated)",
    }  # fmt: skip
    verdicts = slo.check(run, slo.parse("ttft_p95<203ms"))
    assert {verdict.provider: verdict.met for verdict in verdicts} == {
        "sim:a": True, "sim:a over sse": True, "sim:a over websocket": False,
    }  # fmt: skip
    changes = compare.compare(run, run).changes
    assert {change.provider for change in changes} == {group.name for group in found}


def test_what_a_wire_adds_is_paired_within_the_block(tmp_path: Path) -> None:
    run = written(tmp_path / "run")
    lines = list(wires_report.table(run))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:4]]
    assert [row[:2] for row in cells] == [["sse", "8"], ["websocket", "8"]]
    assert cells[0][2:4] == ["2.00 [2.00, 2.00]", "4.00 [4.00, 4.00]"]
    assert cells[1][2:4] == ["5.00 [5.00, 5.00]", "10.0 [10.0, 10.0]"]
    gap = summary.wire_differences(run)[2].estimate
    assert gap.n == 8 and gap.value is not None and abs(gap.value - 0.99 * 0.002) < 1e-9, "p99 of two gaps"
    assert cells[0][5:] == ["1.00", "kernel"]
    assert "## What each wire adds" in report.markdown(run)
    assert "over the wires: a service started for this run" in report.markdown(run)


def test_one_transport_has_no_such_table_and_no_wire_in_its_names(tmp_path: Path) -> None:
    wanted = made.scenario(("sim:a",), transport=("sse",))
    made.write(tmp_path, wanted, [(made.trial(p, transport="sse"), over_wire(p)) for p in plan(wanted)])
    run = tables.from_journal(tmp_path)
    assert list(wires_report.table(run)) == []
    assert [group.name for group in summary.groups(run)] == ["sim:a"]
