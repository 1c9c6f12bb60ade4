"""Labels that no model file could carry are refused before any training; names of files are shown on one line."""

import numpy as np
import pytest
import soundfile

from edgekd.cli import main


@pytest.fixture
def prepare(tmp_path, monkeypatch, capsys):
    """Prepares a folder of a few tones per label and group."""

    def command(*folders: str) -> tuple[int, str]:
        for folder in folders:
            (tmp_path / "set" / folder).mkdir(parents=True)
            for index in range(2):
                tone = np.sin(np.arange(1600) * (index + len(folder)) / 20).astype(np.float32)
                soundfile.write(tmp_path / "set" / folder / f"{index}.wav", tone, 16_000)
        arguments = ["data", "prepare", "folder", str(tmp_path / "set"), "--out", str(tmp_path / "store")]
        monkeypatch.setattr("sys.argv", ["edgekd", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out + captured.err

    return command


def test_a_label_that_would_control_a_terminal_is_refused(prepare, tmp_path):
    status, text = prepare("cat", "do\x1b[2Jg")
    assert status == 2
    assert r"'do\x1b[2Jg'" in text
    assert "\x1b" not in text
    assert not (tmp_path / "store").exists()


def test_names_are_shown_on_one_line(prepare):
    status, text = prepare("cat/a\x1b[2J\nforged: line", "dog/b")
    assert status == 0
    assert "\x1b" not in text
    assert not any(line.startswith("forged") for line in text.splitlines())
