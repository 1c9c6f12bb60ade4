"""The configuration file of the listener: read, refused and overridden."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import msgspec
import pytest
from runtime.toy_listener import ToyModel, raw, tone

from edgekd import cli
from edgekd.errors import InputError
from edgekd.runtime import listen as listen_module
from edgekd.runtime.config import Config, override, read_config
from edgekd.runtime.config_tables import MAIN_TABLES, OUTPUT_TABLES, WatchTable
from edgekd.runtime.decision import DecisionSettings
from edgekd.runtime.outputs.mqtt.settings import credentials
from edgekd.runtime.outputs.web.access import read_token
from edgekd.runtime.source.child import SourceRequest
from edgekd.runtime.source.health import Watch


def written(folder: Path, text: str) -> Path:
    path = folder / "box.toml"
    path.write_text(text)
    return path


def test_an_empty_file_means_the_defaults_of_the_options(tmp_path):
    config = read_config(written(tmp_path, ""))
    assert config == Config()
    assert (config.settings, config.request, config.limits) == (DecisionSettings(), SourceRequest(), Watch())


def test_every_setting_of_the_main_tables_is_an_option(edgekd):
    status, text, _ = edgekd("listen", "--help")
    assert status == 0
    for table in MAIN_TABLES.values():
        for field in msgspec.structs.fields(table):
            assert f"--{field.name} " in text or field.name == "file"
    for option in ("model", "web", "mqtt", "hook", "webhook", "history", "clips", "config"):
        assert f"--{option} " in text


def test_every_setting_is_described():
    for table in (*MAIN_TABLES.values(), *OUTPUT_TABLES.values(), WatchTable):
        for field in msgspec.structs.fields(table):
            assert any(getattr(meta, "description", None) for meta in get_args(field.type)), (table, field.name)


def test_limits_of_live_sources_are_those_of_the_watch(tmp_path):
    config = read_config(written(tmp_path, "[watch]\nstall = 3\nzeros = 600.0\nfailed = 60\nqueue = 5.0\n"))
    assert config.limits == Watch(stall_s=3.0, zeros_s=600.0, failed_s=60.0, queue_s=5.0)


def test_paths_are_relative_to_the_file_and_commands_stay(tmp_path):
    config = read_config(
        written(tmp_path, '[model]\nfile = "a.tflite"\n[source]\nfile = "/b.wav"\n[output]\ntrack = "../c.csv"\n')
    )
    assert config.model_file == tmp_path / "a.tflite"
    assert (config.source.file, config.output.track) == ("/b.wav", str(tmp_path / "../c.csv"))
    assert read_config(written(tmp_path, '[source]\nfile = "-"')).source.file == "-"
    assert read_config(written(tmp_path, '[source]\ncommand = "cat a"\nrate = 8000')).request == SourceRequest(
        command="cat a", rate=8000
    )


def test_paths_may_begin_at_a_home_folder_and_hold_variables(tmp_path, monkeypatch, listen_command):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SITE", "yard")
    (tmp_path / "home").mkdir()
    config = written(
        tmp_path,
        "[source]\nfile = '-'\n[history]\nfile = '~/$SITE/h.sqlite'\n"
        "[clips]\nfolder = '${HOME}/clips-$SITE'\nbelow = 1.0\n"
        "[mqtt]\nurl = 'mqtts://localhost:1'\nca = '$HOME/ca.pem'\n",
    )
    status, _, err = listen_command("--config", config, stdin=raw(tone(32000)))
    assert status == 2
    assert f"{tmp_path / 'home' / 'ca.pem'} cannot be used" in err
    config.write_text(config.read_text().partition("[mqtt]")[0])
    assert listen_command("--config", config, "--model", "m.tflite", stdin=raw(tone(32000)))[0] == 0
    assert (tmp_path / "home" / "yard" / "h.sqlite").is_file()
    assert (tmp_path / "home" / "clips-yard").is_dir()
    assert not list(tmp_path.glob("[~$]*"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$EDGEKD_UNSET/h", "EDGEKD_UNSET is not set"),
        ("a/${EDGEKD_UNSET}", "EDGEKD_UNSET is not set"),
        ("~nobody-of-this-name/h", "~nobody-of-this-name has no home folder"),
        ("a\\u0000b", "no path holds a zero byte"),
    ],
)
def test_a_path_that_means_nothing_is_refused(tmp_path, listen_command, text, message):
    config = written(tmp_path, f'[history]\nfile = "{text}"\n')
    status, out, err = listen_command("-", "--config", config)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert f"{config}: path" in err
    assert message in err


def test_a_name_that_begins_with_a_tilde_is_given_with_its_folder(tmp_path):
    assert read_config(written(tmp_path, "[history]\nfile = './~h'")).history.file == str(tmp_path / "~h")


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, monkeypatch, listen_command):
    monkeypatch.delenv("EDGEKD_WEB_TOKEN", raising=False)
    mark = "\ufeff"
    (tmp_path / "token").write_text(f"{mark}correct-horse\n", encoding="utf-8")
    (tmp_path / "password").write_text(f"{mark}secret\n", encoding="utf-8")
    config = written(
        tmp_path,
        f"{mark}[web]\naddress = ':1'\ntoken_file = 'token'\n"
        "[mqtt]\nurl = 'mqtt://a'\nusername = 'u'\npassword_file = 'password'\n",
    )
    tables = read_config(config)
    assert read_token(tables.web, {}) == "correct-horse"
    assert credentials(tables.mqtt, {}) == ("u", "secret")
    config.write_text(f"{mark}[decision]\nhop = 1.0\n", encoding="utf-8")
    assert listen_command("-", "--config", config, "--model", "m.tflite", stdin=raw(tone(32000)))[1].count("\n") == 2


def test_text_that_is_not_utf_8_is_told(tmp_path, listen_command):
    config = tmp_path / "box.toml"
    config.write_text("[decision]\nhop = 1.0\n", encoding="utf-16")
    status, _, err = listen_command("-", "--config", config)
    assert (status, err.count("\n")) == (2, 1)
    assert f"{config}: not UTF-8 text" in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[decision]\nsmoth = 1", r"\[decision\]: .*'smoth'; .*'smooth'"),
        ("[modle]\nfile = 'a'", "'modle'; did you mean 'model'"),
        ("[decision]\nhop = 0.1", r"decision\.hop: .*>= 0\.25, got 0\.1"),
        ("[decision]\ngate = 'low'", r"decision\.gate: .*'low'"),
        ("[decision]\nsmooth = -1", "smooth is -1 s; .*0 to 3600"),
        ("[source]\nmic = 'a'\ncommand = 'b'", "mic and command are 2 sources"),
        ("[watch]\nzeros_s = 9.0", r"\[watch\]: .*'zeros_s'; .*'zeros'"),
        ("[watch]\nstall = 0.1", r"watch\.stall: .*>= 0\.5, got 0\.1"),
        ("[watch]\nqueue = 100", r"watch\.queue: .*<= 60\.0, got 100"),
        ("[model]\nengine = 'lite'", r"model\.engine: .*'lite'"),
        ("hop = ", "not valid TOML"),
    ],
)
def test_errors_name_the_file_the_key_and_the_value(tmp_path, text, message):
    with pytest.raises(InputError, match=rf"box\.toml: .*{message}"):
        read_config(written(tmp_path, text))


def test_the_command_line_overrides_and_a_source_replaces_the_whole_table():
    config = msgspec.convert({"source": {"mic": "usb", "rate": 48000}, "decision": {"hop": 1.0, "top": 2}}, Config)
    same = override(config, {"source": {"mic": None, "channel": 1}, "decision": {"hop": 0.5, "top": None}})
    assert same.request == SourceRequest(mic="usb", rate=48000, channel=1)
    assert (same.decision.hop, same.decision.top) == (0.5, 2)
    assert override(config, {"source": {"command": "cat"}}).request == SourceRequest(command="cat")


def test_the_command_works_with_a_file_alone(monkeypatch, capsys, tmp_path):
    opened = []
    monkeypatch.setattr(listen_module, "open_model", lambda *how: opened.append(how) or ToyModel())
    path = written(
        tmp_path,
        '[model]\nfile = "m.onnx"\nthreads = 2\n[source]\nfile = "-"\n[decision]\nhop = 1.0\ntop = 2\n'
        "[output]\njson = true",
    )

    (tmp_path / "sound").write_bytes(bytes(64000))

    def run(*arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["edgekd", "listen", "--config", str(path), *arguments])
        with (tmp_path / "sound").open("rb") as sound:
            monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=sound))
            with pytest.raises(SystemExit):
                cli.main()
        return capsys.readouterr().out.splitlines()

    lines = [json.loads(line) for line in run()]
    assert opened == [(tmp_path / "m.onnx", None, 2)]
    assert [(line["t"], len(line["top"])) for line in lines] == [(1.0, 2), (2.0, 2)]
    assert [line.split()[0] for line in run("--hop", "0.5", "--no-json")] == ["1.00", "1.48", "1.99"]
