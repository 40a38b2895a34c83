"""Settings: read once, unknown is None, and no secret shows."""

import pytest

from settings import Settings

CANARY = "sk-canary-0123456789"


def test_unset_and_empty_are_none() -> None:
    settings = Settings({"EMPTY": "  ", "MODEL": " m.gguf "})
    assert settings.get("EMPTY") is None
    assert settings.get("MISSING") is None
    assert settings.get("MODEL") == "m.gguf"


def test_a_secret_shows_in_no_repr_and_is_masked_in_text() -> None:
    settings = Settings({"OPENAI_API_KEY": CANARY, "HF_TOKEN": CANARY[::-1]})
    assert CANARY not in repr(settings)
    assert settings.masked(f"bad key {CANARY}, {CANARY[::-1]}") == "bad key [OPENAI_API_KEY], [HF_TOKEN]"


def test_a_secret_is_masked_with_white_space_around_it_inside_another_and_cut_short() -> None:
    settings = Settings({"A_KEY": f" {CANARY}\n", "B_KEY": f"{CANARY}-longer"})
    assert settings.masked(f"{CANARY} {CANARY}-longer") == "[A_KEY] [B_KEY]"
    assert CANARY[:10] not in settings.masked(f"refused {CANARY[:14]}…; check A_KEY")


def test_the_environment_is_copied_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "someone/space")
    settings = Settings.from_environment()
    monkeypatch.delenv("SPACE_ID")
    assert settings.on_space
    assert not Settings({}).on_space


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        Settings.from_environment().variables["X"] = "y"  # type: ignore[index] # the point of the test
