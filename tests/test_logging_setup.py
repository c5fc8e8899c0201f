"""Logging of scripts: the argparse options, the log file, the console, and the way back."""

import argparse
import logging
import sys

import pytest

from ptycho.cli_args import add_logging_arguments, get_logging_config
from ptycho.errors import InputError, OutputError
from ptycho.log_config import restore_stdout, setup_logging

ROOT = logging.getLogger()


@pytest.fixture(autouse=True)
def _root_logger_put_back():
    handlers, level = list(ROOT.handlers), ROOT.level
    yield
    restore_stdout()
    ROOT.handlers[:] = handlers
    ROOT.setLevel(level)


def parse(*words):
    parser = argparse.ArgumentParser()
    add_logging_arguments(parser)
    return get_logging_config(parser.parse_args(words))


def say_everything():
    logger = logging.getLogger("ptycho.somewhere")
    for level in ("debug", "info", "warning", "error"):
        getattr(logger, level)("at %s", level)


def levels_in(text):
    return [level for level in ("debug", "info", "warning", "error") if f"at {level}" in text]


# ---- options


def test_defaults():
    assert parse() == {"console_level": logging.INFO, "quiet": False, "verbose": False}


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
def test_console_level(level):
    assert parse("--console-level", level)["console_level"] == getattr(logging, level)


def test_quiet_and_verbose_exclude_each_other(capsys):
    assert parse("--quiet") == {"console_level": logging.INFO, "quiet": True, "verbose": False}
    assert parse("--verbose") == {"console_level": logging.INFO, "quiet": False, "verbose": True}
    for wrong in (("--quiet", "--verbose"), ("--console-level", "LOUD")):
        with pytest.raises(SystemExit):
            parse(*wrong)
    assert "not allowed with argument" in capsys.readouterr().err


def test_a_namespace_without_the_options_means_the_defaults():
    assert get_logging_config(argparse.Namespace()) == parse()


def test_options_go_straight_into_the_set_up(tmp_path):
    setup_logging(tmp_path, **parse("--console-level", "ERROR"))
    assert sorted(handler.level for handler in ROOT.handlers) == [logging.DEBUG, logging.ERROR]


# ---- set-up


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, ["info", "warning", "error"]),
        ({"console_level": logging.ERROR}, ["error"]),
        ({"verbose": True}, ["debug", "info", "warning", "error"]),
        ({"quiet": True}, []),
    ],
)
def test_what_is_shown_and_what_is_kept(tmp_path, capsys, options, shown):
    setup_logging(tmp_path / "run", **options)
    say_everything()
    captured = capsys.readouterr()
    assert levels_in(captured.err) == shown and captured.out == ""
    kept = (tmp_path / "run" / "logs" / "debug.log").read_text(encoding="utf-8")
    assert levels_in(kept) == ["debug", "info", "warning", "error"]
    assert "ptycho.somewhere" in kept
    assert len(ROOT.handlers) == (1 if options.get("quiet") else 2)


def test_a_path_may_be_text(tmp_path):
    setup_logging(str(tmp_path / "run"), quiet=True)
    assert (tmp_path / "run" / "logs" / "debug.log").is_file()


def test_handlers_that_were_there_are_replaced_and_put_back(tmp_path):
    mine = logging.NullHandler()
    ROOT.addHandler(mine)
    ROOT.setLevel(logging.ERROR)
    before = list(ROOT.handlers)
    setup_logging(tmp_path)
    assert mine not in ROOT.handlers
    restore_stdout()
    assert before == ROOT.handlers and ROOT.level == logging.ERROR


def test_a_second_set_up_replaces_the_first(tmp_path, capsys):
    before = list(ROOT.handlers)
    setup_logging(tmp_path / "a")
    (first,) = [h for h in ROOT.handlers if isinstance(h, logging.FileHandler)]
    setup_logging(tmp_path / "b")
    assert len(ROOT.handlers) == 2 and first not in ROOT.handlers and first.stream is None  # closed
    say_everything()
    assert capsys.readouterr().err.count("at info") == 1
    assert levels_in((tmp_path / "a" / "logs" / "debug.log").read_text()) == []
    assert levels_in((tmp_path / "b" / "logs" / "debug.log").read_text())[0] == "debug"
    restore_stdout()
    assert before == ROOT.handlers


def test_the_same_folder_again_keeps_what_was_logged(tmp_path):
    for message in ("first run", "second run"):
        setup_logging(tmp_path, quiet=True)
        logging.getLogger("ptycho").info(message)
    text = (tmp_path / "logs" / "debug.log").read_text()
    assert "first run" in text and "second run" in text


def test_restoring_any_number_of_times(tmp_path):
    before, out, err = list(ROOT.handlers), sys.stdout, sys.stderr
    restore_stdout()  # before there is anything to restore
    assert before == ROOT.handlers
    setup_logging(tmp_path)
    assert sys.stdout is out and sys.stderr is err  # nothing is redirected
    (file,) = [h for h in ROOT.handlers if isinstance(h, logging.FileHandler)]
    late = logging.NullHandler()
    ROOT.addHandler(late)
    for _ in range(3):
        restore_stdout()
    assert {late, *before} == set(ROOT.handlers) and len(ROOT.handlers) == len(before) + 1
    assert file.stream is None


def test_mistakes_leave_logging_as_it_was(tmp_path):
    before = list(ROOT.handlers)
    with pytest.raises(InputError, match="quiet"):
        setup_logging(tmp_path, quiet=True, verbose=True)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"debug\.log.*Choose"):
        setup_logging(tmp_path / "file")
    assert before == ROOT.handlers
