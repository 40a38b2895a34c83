"""The table of `python -m providers` in a terminal of 80 columns."""

import io

from rich.console import Console

from providers.__main__ import ServiceReport, to_table


def report(service: str, example: str, models: int | None, *notes: str) -> ServiceReport:
    return ServiceReport(
        service, service, "KEY set", True, None, example, None, None, None, state="found", models=models, notes=notes
    )


def test_table_fits_80_columns_and_no_name_is_cut() -> None:
    long = "router:organization/a-model-whose-name-is-long-Instruct-Turbo-20261"
    notes = "the example is unconfirmed; no server at http://127.0.0.1:11434/with/a/path/that/is/longer/than/the/column"
    reports = [report("one", f"{long}1", 12345), report("two", f"{long}2", None, notes)]
    written = io.StringIO()
    Console(file=written, width=80).print(to_table(reports))
    lines = written.getvalue().splitlines()
    assert max(map(len, lines)) == 80
    names, models, said = zip(*(line.split("│")[1:-1] for line in lines if line.startswith("│")), strict=True)
    assert "".join(name.strip() for name in names) == f"{long}1{long}2"
    assert [count.strip() for count in models if count.strip()] == ["12345", "–"]
    assert "".join(said).replace(" ", "") == notes.replace(" ", "")
