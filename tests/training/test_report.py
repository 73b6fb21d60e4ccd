"""What a run says before its first step."""

import pytest

from quillgpt.config import Given
from quillgpt.training.record.report import show_settings

from .conftest import MakeSettings


def test_settings_are_a_few_lines_unless_all_are_asked_for(
    tiny: MakeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tiny(max_iters=7)
    places = dict.fromkeys(settings.model_fields_set, "preset demo") | {"max_iters": "flags"}
    show_settings(settings.model_copy(update={"patience": 0}), Given(settings, places), resumed=False)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("settings that are not the default")
    assert "flags         max_iters = 7" in lines
    assert "chosen for it patience = 0" in lines[-1]
    show_settings(settings, Given(settings, places, verbose=True), resumed=False)
    assert len(capsys.readouterr().err.splitlines()) > 80
