"""The command line: its arguments, its mistakes told in one sentence, and the environment in which it compares."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

import fastrnn
from fastrnn.__main__ import main
from fastrnn.commands import environment, vowels
from fastrnn.commands.speakers import SpeakerModel

# --- arguments --------------------------------------------------------------------------------------------------------


def exit_code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    return caught.value.code


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--version") == 0
    assert capsys.readouterr().out == f"fastrnn {fastrnn.__version__}\n"


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("--help") == 0
    assert "demo" in capsys.readouterr().out
    assert exit_code("demo", "--help") == 0
    printed = capsys.readouterr().out
    for option in ("--epochs", "--hidden-size", "--seed", "--threads", "--backend"):
        assert option in printed
    assert "(default: 20)" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "arguments are required: command"),
        (["sing"], "invalid choice: 'sing'"),
        (["demo", "--epochs", "0"], "argument --epochs: expected an integer of at least 1, got '0'"),
        (["demo", "--hidden-size", "2.5"], "argument --hidden-size: expected an integer of at least 1, got '2.5'"),
        (["demo", "--seed", "-1"], "argument --seed: expected an integer of at least 0, got '-1'"),
        (["demo", "--threads", "two"], "argument --threads: expected an integer of at least 1, got 'two'"),
        (["demo", "--backend", "abacus"], "argument --backend: invalid choice: 'abacus'"),
        (["demo", "--loud"], "unrecognized arguments: --loud"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(*arguments) == 2
    assert message in capsys.readouterr().err


# --- mistakes ---------------------------------------------------------------------------------------------------------


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The command in this process."""
    monkeypatch.setenv(environment.MARK, "1")
    return main(["demo", "--epochs", "3", "--hidden-size", "8", *arguments])


@pytest.mark.needs("sktime")
@pytest.mark.parametrize("name", ["sktime", "rich"])
def test_a_missing_extra_is_one_sentence(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, name, None)  # what importing it finds is: nothing
    assert main(["demo"]) == 1
    printed, errors = capsys.readouterr()
    assert printed == ""
    assert errors == f"fastrnn demo: it needs {name}, which is not installed: pip install 'fastrnn[demo]'\n"


@pytest.mark.needs("sktime")
def test_missing_recordings_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vowels, "FOLDER", Path("elsewhere"))
    assert run_here(monkeypatch) == 1
    errors = capsys.readouterr().err
    assert re.fullmatch(r"fastrnn demo: sktime as it is installed here does not ship JapaneseVowels.*\n", errors)


@pytest.mark.needs("sktime")
def test_a_wrong_backend_variable_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FASTRNN_BACKEND", "abacus")
    assert run_here(monkeypatch) == 1
    errors = capsys.readouterr().err
    assert re.fullmatch(r"fastrnn demo: FASTRNN_BACKEND: expected one of .* got 'abacus'\n", errors)


@pytest.mark.needs("sktime")
def test_a_real_error_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(SpeakerModel, "train_epoch", fail)
    with pytest.raises(ZeroDivisionError):
        run_here(monkeypatch, "--backend", "numpy")


# --- the environment --------------------------------------------------------------------------------------------------


def test_an_environment_is_fair_without_tuning_and_with_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*environment.TUNING, environment.MARK):
        monkeypatch.delenv(name, raising=False)
    for name in environment.THREADS:
        monkeypatch.setenv(name, "2")
    assert environment.is_fair(2)
    assert not environment.is_fair(1)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    assert environment.tuning() == ["OPENBLAS_CORETYPE"]
    assert not environment.is_fair(2)
    monkeypatch.setenv(environment.MARK, "1")  # but never twice
    assert environment.is_fair(2)


@pytest.mark.skipif(os.name == "nt", reason="there the process is not replaced")
def test_the_command_begins_again_as_it_was_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Replaced(Exception):
        pass

    def execve(program: str, arguments: list[str], variables: dict[str, str]) -> None:
        raise Replaced(program, arguments, variables)

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    monkeypatch.setenv("ANOTHER", "kept")
    with pytest.raises(Replaced) as caught:
        environment.begin_again(["demo", "--seed", "3"], threads=2)
    program, arguments, variables = caught.value.args
    assert program == sys.executable
    assert arguments[0] == sys.executable
    assert arguments[3:] == ["demo", "--seed", "3"]
    assert repr(sys.path) in arguments[2]
    assert "OPENBLAS_CORETYPE" not in variables
    assert (variables["ANOTHER"], variables[environment.MARK]) == ("kept", "1")
    assert {variables[name] for name in environment.THREADS} == {"2"}
