"""Settings: read once, unknown is None, and no secret shows."""

import pytest

from settings import Settings

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


def test_settings_are_immutable() -> None:
    with pytest.raises(TypeError):
        Settings.from_environment().variables["X"] = "y"  # type: ignore[index] # the point of the test
