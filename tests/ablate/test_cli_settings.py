"""Where a setting comes from, and how one that cannot be used is blamed on that place."""

from __future__ import annotations

from pathlib import Path

import pytest
from written_study import Call, call_ablate

from ablate.cli.options import launch_settings, setting, store_root
from ablate.errors import AblateError, ExitCode


@pytest.fixture
def ablate(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Call:
    return call_ablate(capsys, monkeypatch, tmp_path)


def launched() -> object:
    return launch_settings(None, None, None, None, None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("store = 3", "ablate.toml: store: 3 is no folder; write store = 'runs'"),
        ("store = ['a']", "ablate.toml: store: ['a'] is no folder"),
        ("stor = 'x'", "ablate.toml: no setting is named 'stor'; did you mean store?"),
        ("isolation = 'foo'", "ablate.toml: isolation: 'foo' is neither process nor actor"),
        ("gpus = 'many'", "ablate.toml: gpus: 'many' is not a number"),
        ("cpus_per_trial = nan", "ablate.toml: cpus_per_trial: nan is not a number"),
        ("pack = 'some'", "ablate.toml: pack: some: write auto, or the most trials that share a process"),
        ("gpus = ", "ablate.toml: Invalid value"),
    ],
)
def test_a_wrong_setting_of_the_file_is_one_line_whatever_the_command(ablate: Call, text: str, told: str) -> None:
    Path("ablate.toml").write_text(text + "\n")
    ended = ablate("ls", "--store", "here")
    assert ended.code == ExitCode.USAGE
    assert ended.err.startswith(f"error: {told}")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("ABLATE_GPUS", "abc", "ABLATE_GPUS: 'abc' is not a number"),
        ("ABLATE_CPUS_PER_TRIAL", "inf", "ABLATE_CPUS_PER_TRIAL: 'inf' is not a number"),
        ("ABLATE_ISOLATION", "foo", "ABLATE_ISOLATION: 'foo' is neither process nor actor"),
    ],
)
def test_a_wrong_setting_of_the_environment_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, name: str, text: str, told: str
) -> None:
    monkeypatch.setenv(name, text)
    with pytest.raises(AblateError) as refused:
        launched()
    assert str(refused.value) == told


def test_packs_of_the_environment_name_their_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_PACK", "0")
    with pytest.raises(AblateError, match=r"^ABLATE_PACK: 0: write auto"):
        setting("pack", None)


def test_settings_of_the_file_are_used(ablate: Call) -> None:
    Path("ablate.toml").write_text("store = '~/there'\ngpus = 2\nisolation = 'actor'\npack = 4\n")
    assert launched() == {
        "gpus": 2.0, "gpus_per_trial": None, "cpus_per_trial": None, "isolation": "actor", "time_limit": None
    }  # fmt: skip
    assert setting("pack", None) == 4


@pytest.mark.parametrize("flag", ["--gpus", "--gpus-per-trial", "--cpus-per-trial"])
def test_a_flag_that_is_no_number_is_one_line(ablate: Call, flag: str) -> None:
    ended = ablate("run", "smoke", "--yes", flag, "nan")
    assert (ended.code, ended.err) == (ExitCode.USAGE, f"error: {flag}: nan is not a number\n")


@pytest.mark.parametrize("words", [["plan", "smoke"], ["run", "smoke", "--yes"], ["ls"], ["db", "check"], ["report"]])
def test_a_store_that_is_a_file_is_refused_where_it_was_named(
    ablate: Call, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("small.yaml").write_text("name: small\n")
    for store in ("small.yaml", "small.yaml/below"):
        ended = ablate(*words, "--store", store)
        assert ended.code == ExitCode.USAGE
        assert ended.err == f"error: --store {store}: small.yaml is a file, and a store is a folder; name another\n"
    monkeypatch.setenv("ABLATE_HOME", "/dev/null")
    assert "error: ABLATE_HOME /dev/null: /dev/null is a file, " in ablate(*words).err
    monkeypatch.delenv("ABLATE_HOME")
    Path("ablate.toml").write_text('store = "small.yaml"\n')
    assert "error: ablate.toml: store small.yaml: small.yaml is a file, " in ablate(*words).err
    assert store_root(Path("~nobody-here/runs")) == Path("~nobody-here/runs")
