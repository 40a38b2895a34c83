"""Settings: read once, unknown is None, and no secret shows."""

import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from guard import GuardVariables
from settings import (
    InvalidVariablesError,
    Settings,
    check_variables,
    find_misspelt_variables,
    use_one_thread_for_arithmetic,
)

CANARY = "sk-canary-0123456789"


def test_unset_and_empty_variables_are_none() -> None:
    settings = Settings({"EMPTY": "  ", "MODEL": " m.gguf "})
    assert settings.get("EMPTY") is None
    assert settings.get("MISSING") is None
    assert settings.get("MODEL") == "m.gguf"


def test_secret_is_hidden_in_repr_and_masked_in_text() -> None:
    settings = Settings({"OPENAI_API_KEY": CANARY, "HF_TOKEN": CANARY[::-1]})
    assert CANARY not in repr(settings)
    assert settings.mask_secrets(f"bad key {CANARY}, {CANARY[::-1]}") == "bad key [OPENAI_API_KEY], [HF_TOKEN]"


def test_secret_is_masked_when_padded_nested_or_truncated() -> None:
    settings = Settings({"A_KEY": f" {CANARY}\n", "B_KEY": f"{CANARY}-longer"})
    assert settings.mask_secrets(f"{CANARY} {CANARY}-longer") == "[A_KEY] [B_KEY]"
    assert CANARY[:10] not in settings.mask_secrets(f"refused {CANARY[:14]}…; check A_KEY")


def test_environment_is_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "someone/space")
    settings = Settings.from_environment()
    monkeypatch.delenv("SPACE_ID")
    assert settings.on_space
    assert not Settings({}).on_space


SPACE_WITH_SIGN_IN = {
    "SPACE_ID": "someone/space",
    "SYSTEM": "spaces",
    "OAUTH_CLIENT_ID": "id",
    "OAUTH_CLIENT_SECRET": "secret",
    "OAUTH_SCOPES": "openid profile inference-api",
    "OPENID_PROVIDER_URL": "https://openid.example",
}


def test_sign_in_is_offered_at_the_root_of_a_space_that_enables_it() -> None:
    assert Settings(SPACE_WITH_SIGN_IN).offers_sign_in
    assert not Settings({**SPACE_WITH_SIGN_IN, "ROOT_PATH": "/chat"}).offers_sign_in
    assert not Settings({**SPACE_WITH_SIGN_IN, "OAUTH_SCOPES": "openid profile"}).offers_sign_in


def test_invalid_variables_are_reported_together_in_one_line_each() -> None:
    variables = {"READER_TIMEOUT_S": "soon", "FIRST_CONTENT_S": "0", "RATE_LIMIT": "often", "MAX_TURNS": "5"}
    with pytest.raises(InvalidVariablesError) as caught:
        check_variables(variables, Settings, GuardVariables)
    assert [problem.partition(": ")[0] for problem in caught.value.problems] == [
        "READER_TIMEOUT_S",
        "FIRST_CONTENT_S",
        "RATE_LIMIT",
    ]
    assert caught.value.problems[0] == "READER_TIMEOUT_S: 'soon' cannot be used (write whole seconds from 1 to 3600)"
    check_variables({"MAX_TURNS": "5"}, Settings, GuardVariables)


def test_model_reads_only_the_variables_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("READER_TIMEOUT_S", "9")
    monkeypatch.setenv("reader_timeout_s", "8")
    assert Settings({"READER_TIMEOUT_S": " 7 "}).reader_timeout_s == 7
    assert Settings({"FIRST_CONTENT_S": " "}).reader_timeout_s == 30
    assert Settings.from_environment().reader_timeout_s == 9


def test_lists_are_split_and_commas_alone_are_kept_for_the_error() -> None:
    settings = Settings(
        {"ALLOWED_ORIGINS": " https://A.example/ ,,http://b", "ALLOWED_HOSTS": ",", "PUBLIC_MODELS": ","}
    )
    assert settings.allowed_origins == {"https://a.example", "http://b"}
    assert settings.allowed_hosts == {","} and settings.public_models == () and Settings().public_models is None


def test_misspelt_variables_are_found_and_others_are_not() -> None:
    known = {"OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "RATE_LIMIT", "OPENAI_API_KEY", "XAI_API_KEY", "ZAI_API_KEY"}
    variables = {
        "OPENAI_BASEURL": "http://here", "ANTHROPIC_KEY": "k", "RATE_LIMITS": "off", "OPENAI_API_KEYS": " ",
        "OPENAI_API_TYPE": "azure", "NVIDIA_API_KEY": "n", "PATH": "/bin", "HOME": "/", "XAI_API_KEY": "x",
    }  # fmt: skip
    assert find_misspelt_variables(variables, known) == [
        "ANTHROPIC_KEY: is not read here (did you mean ANTHROPIC_API_KEY?)",
        "OPENAI_BASEURL: is not read here (did you mean OPENAI_BASE_URL?)",
        "RATE_LIMITS: is not read here (did you mean RATE_LIMIT?)",
    ]
    assert find_misspelt_variables({"RATE_LIMITS": "off", "RATE_LIMIT": "5"}, known) == []


def test_settings_are_immutable() -> None:
    with pytest.raises(ValidationError):
        Settings().redis_url = "redis://elsewhere"
    with pytest.raises(TypeError):
        Settings.from_environment().variables["X"] = "y"  # type: ignore[index] # the point of the test


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("http://user:Hunter2secret@127.0.0.1:1/v1/", "http://user:Hunter2secret@127.0.0.1:1/v1"),
        ("user:Hunter2secret@proxy.example:8080", "proxy user:Hunter2secret@proxy.example refused"),
    ],
)
def test_password_in_an_address_is_masked_however_the_address_is_written(value: str, written: str) -> None:
    settings = Settings({"HTTPS_PROXY": value})
    assert "Hunter2secret" in settings.secrets()
    assert "Hunter2secret" not in settings.mask_secrets(f"error at {written}")


def test_number_of_threads_for_arithmetic_that_somebody_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "3")
    use_one_thread_for_arithmetic()
    assert os.environ["OPENBLAS_NUM_THREADS"] == "3"


_COUNT_THREADS = """
from pathlib import Path
from evaluation.cli import commands
commands.main(["report", "no-such-folder"])
import numpy
numpy.ones((500, 500)) @ numpy.ones((500, 500))
print(len(list(Path("/proc/self/task").iterdir())))
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="only Linux lists the threads of a process")
def test_command_of_the_evaluation_does_arithmetic_in_one_thread() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    run = subprocess.run(
        [sys.executable, "-c", _COUNT_THREADS], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split()[-1] == "1"
