"""Progress: who is told what, and what a terminal shows of it."""

import io
import logging
import re
import sys
import threading
import time

import click
import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console
from runs import Recorder, small_scan

from ptycho import progress, validation
from ptycho.cli.logs import verbosity_options
from ptycho.cli.mistakes import reported
from ptycho.cli.progress import TerminalProgress, _Work, show_progress
from ptycho.io import npz

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    """Standard error as a program sees it on a terminal."""

    def isatty(self):
        return True


def plain(text):
    """What was written, without colours and movements of the cursor."""
    return ESCAPES.sub("", text).replace("\r", "\n")


def terminal(width=110, delay_s=0.02):
    console = Console(force_terminal=True, file=io.StringIO(), width=width, legacy_windows=False)
    return TerminalProgress(console, delay_s=delay_s), console.file


def shown(stream, pattern, limit_s=30.0):
    """True as soon as `stream` shows `pattern`: on a busy machine a line may be seconds late, not only its delay."""
    end = time.monotonic() + limit_s
    while not re.search(pattern, plain(stream.getvalue())):
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


# ---------------------------------------------------------------------- who is told


def test_nobody_is_told_unless_asked(capsys):
    with progress.task("Working", 3) as step:
        step()
        step(2, "loss 1")
    assert capsys.readouterr() == ("", "")


def test_the_reporter_of_the_context_is_told():
    recorder = Recorder()
    with progress.reporting_to(recorder), progress.task("Working", 5, "frame", limit_s=9.0) as step:
        step(2)
        step(3, "loss 1")
    with progress.task("Afterwards"):
        pass
    (entry,) = recorder.tasks
    assert entry["done"] == 5 and entry["total"] == 5 and entry["unit"] == "frame" and entry["limit_s"] == 9.0
    assert entry["texts"] == ["", "loss 1"] and entry["ended"]


def test_an_error_ends_the_task():
    recorder = Recorder()
    with pytest.raises(KeyError), progress.reporting_to(recorder), progress.task("Working"):
        raise KeyError("x")
    assert recorder.tasks[0]["ended"]


def test_other_threads_are_silent():
    recorder = Recorder()

    def work():
        with progress.task("Elsewhere"):
            pass

    with progress.reporting_to(recorder):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert recorder.tasks == []


def test_solvers_tell_epochs():
    recorder, heard = Recorder(), []
    with progress.reporting_to(recorder), progress.task("Refining", 2, "epoch") as step:
        tell = progress.by_epoch(step, also=lambda *args: heard.append(args))
        tell(1, 0.25)
        tell(2, 0.125)
    assert recorder.tasks[0]["texts"] == ["misfit 0.25", "misfit 0.125"] and recorder.tasks[0]["done"] == 2
    assert heard == [(1, 0.25), (2, 0.125)]


# ---------------------------------------------------------------------- what a line says


def work_of(elapsed_s, **values):
    work = _Work("Working", **{"total": 100.0, "unit": "frame", "limit_s": None, **values})
    work.started = time.monotonic() - elapsed_s
    return work


@pytest.mark.parametrize(
    ("done", "elapsed_s", "rate", "left"),
    [
        (0, 5, "", ""),
        (50, 5, "10 frames/s", "0:05 left"),
        (2, 10, "5 s/frame", "8:10 left"),
        (1, 60, "60 s/frame", "1:39:00 left"),
        (90, 0.05, r"1,[78]\d\d frames/s", "0:00 left"),
    ],
)
def test_rate_and_time_left(done, elapsed_s, rate, left):
    work = work_of(elapsed_s, done=done)
    assert re.fullmatch(rate, work.rate()) and work.left() == left
    assert work.amount() == f"{done}/100 frames"


def test_time_left_is_never_more_than_the_limit():
    assert work_of(10, done=1, limit_s=40.0).left() == "0:30 left"
    assert work_of(10, done=0, limit_s=40.0).left() == "0:30 left"
    assert work_of(10, done=50, limit_s=40.0).left() == "0:10 left"


def test_work_of_unknown_size():
    work = work_of(5, total=None, done=10)
    assert work.amount() == "10 frames" and work.left() == "" and work.rate() == "2 frames/s"


# ---------------------------------------------------------------------- on a terminal


def test_a_long_task_is_shown_and_goes_away():
    bars, written = terminal()
    with bars.task("Calibrating the probe", 20, "epoch", None) as step:
        step(5, "misfit 0.25")
        assert shown(written, r"Calibrating the probe .*5/20 epochs .*epochs/s .*left +misfit 0\.25")
        step(1, "misfit 0.125")
        assert shown(written, r"6/20 epochs .*misfit 0\.125")
    assert written.getvalue().endswith("\x1b[?25h") or "\x1b[?25h" in written.getvalue(), "the cursor is back"
    assert bars._bars is None


def test_a_short_task_leaves_no_trace():
    bars, written = terminal(delay_s=5.0)
    with bars.task("Reading", 3, "frame", None) as step:
        step(3)
    assert written.getvalue() == ""


def test_the_first_step_may_be_a_long_one():
    bars, written = terminal()
    with bars.task("Training", 50, "epoch", 60.0):
        assert shown(written, "0/50 epochs .*left")


def test_tasks_within_tasks_have_a_line_each():
    bars, written = terminal()
    with bars.task("Outer", 2, "stage", None), bars.task("Inner", 7, "frame", None):
        assert shown(written, "Outer") and shown(written, "Inner")


def test_eighty_columns_are_enough():
    bars, written = terminal(width=80)
    with bars.task("Projecting onto the counts", 120000, "frame", None) as step:
        step(4000, "step 3 of 10")
        assert shown(written, "4000/120000.*left")
    lines = [line for line in plain(written.getvalue()).splitlines() if "frames" in line]
    assert lines and all(len(line) <= 80 for line in lines)
    assert any("4000/120000" in line and "left" in line for line in lines)


def test_a_task_left_open_by_an_error_is_taken_away():
    bars, written = terminal()
    frames = np.zeros((4, 2, 2), np.uint16)
    with progress.reporting_to(bars):
        parts = validation.chunks(frames)  # kept alive, as a traceback keeps it
        next(parts)
        assert shown(written, "frames")
    assert bars._bars is not None
    bars.close()
    assert bars._bars is None and "\x1b[?25h" in written.getvalue()
    parts.close()


# ---------------------------------------------------------------------- in the command


def make_command(body):
    @click.command()
    @verbosity_options
    def command():
        show_progress()
        show_progress()
        body()

    return command


def run_on(stream, command, args, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr("ptycho.cli.progress.DELAY_S", 0.02)
    command.main(args=args, standalone_mode=False)
    return stream.getvalue()


def long_task():
    with progress.task("Working", 4, "frame") as step:
        step(1)
        time.sleep(0.3)
        logging.getLogger("ptycho.made_up").warning("a message in between")
        step(1)
        time.sleep(0.3)


def watched_task(stream):
    """The same, as slow as the bars on `stream` ask for."""
    with progress.task("Working", 4, "frame") as step:
        step(1)
        assert shown(stream, "Working .*1/4 frames")
        logging.getLogger("ptycho.made_up").warning("a message in between")
        step(1)
        assert shown(stream, "Working .*2/4 frames")


@pytest.fixture
def wide(monkeypatch):
    """A terminal that rich takes for one."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)


def test_messages_stand_whole_above_the_bar(wide, monkeypatch):
    stream = Terminal()
    text = plain(run_on(stream, make_command(lambda: watched_task(stream)), [], monkeypatch))
    lines = [line.rstrip() for line in text.splitlines()]
    assert "Warning: a message in between" in lines
    assert any(re.match(r"Working .*1/4 frames", line) for line in lines)
    assert sys.stderr.__class__ is Terminal, "standard error is given back"


def test_nothing_is_shown_where_nobody_looks(wide, monkeypatch):
    assert run_on(io.StringIO(), make_command(long_task), [], monkeypatch) == "Warning: a message in between\n"


def test_nothing_is_shown_to_the_quiet(wide, monkeypatch):
    assert run_on(Terminal(), make_command(long_task), ["--quiet"], monkeypatch) == ""


def test_a_terminal_that_cannot_move_its_cursor_gets_no_bar(wide, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert run_on(Terminal(), make_command(long_task), [], monkeypatch) == "Warning: a message in between\n"


def test_the_command_leaves_no_reporter_behind(monkeypatch):
    def broken():
        with progress.task("Working"):
            raise OSError(5, "gone", "disk")

    @click.group()
    def group():
        show_progress()

    @group.command()
    def verb():
        with reported():
            broken()

    assert CliRunner().invoke(group, ["verb"]).exit_code == 2
    assert progress._reporter.get() is None


# ---------------------------------------------------------------------- what the library tells


def test_checking_a_scan_is_told_frame_by_frame(monkeypatch):
    monkeypatch.setattr(validation, "_CHUNK_BYTES", 8 * 16 * 16 * 5)
    frames, recorder = np.ones((12, 16, 16), np.uint16), Recorder()
    with progress.reporting_to(recorder):
        validation.check_frame_values(frames, None, "scan")
    (entry,) = recorder.tasks
    assert (entry["what"], entry["total"], entry["done"], len(entry["texts"])) == ("Checking the frames", 12, 12, 3)


@pytest.mark.parametrize("order", ["C", "F"])
def test_decompressing_a_file_is_told(tmp_path, monkeypatch, order):
    monkeypatch.setattr(npz, "_PIECE_BYTES", 1000)
    frames = np.asarray(np.random.default_rng(0).poisson(5.0, (12, 16, 16)).astype(np.uint16), order=order)
    np.savez_compressed(tmp_path / "scan.npz", diff3d=frames, xcoords=np.arange(12.0), ycoords=np.arange(12.0))
    recorder = Recorder()
    with progress.reporting_to(recorder):
        entries = npz.read_scan_npz(tmp_path / "scan.npz")
    np.testing.assert_array_equal(entries["diff3d"], frames)
    (entry,) = recorder.named("Reading the file")
    assert entry["done"] == pytest.approx(entry["total"]) == pytest.approx(frames.nbytes / 2**20)
    assert len(entry["texts"]) == 7 and entry["ended"]


def test_calibration_and_inference_are_told():
    torch = pytest.importorskip("torch")
    from ptycho_torch.calibration import calibrate_probe, scaled_guess
    from ptycho_torch.data.scans import PlacedScan
    from ptycho_torch.reassembly import StreamedFrames

    raw, recorder = small_scan(20), Recorder()
    guess = scaled_guess(raw)
    with progress.reporting_to(recorder):
        calibrate_probe(raw, guess, 3)
        frames = StreamedFrames(PlacedScan.of(raw), torch.from_numpy(guess), torch.from_numpy(raw.good_pixels), 8)
        canvas = frames.project(frames.vacuum(), 2)
        frames.from_patches(lambda amplitudes: torch.ones_like(amplitudes, dtype=torch.complex64), 1)
        frames.deviance(canvas)
    (calibration,) = recorder.named("Calibrating the probe")
    assert calibration["done"] == calibration["total"] == 3 and calibration["texts"][0].startswith("misfit ")
    for what, total in (("Placing the frames", 20), ("Projecting onto the counts", 40),
                        ("Applying the network", 20), ("Comparing with the counts", 20)):  # fmt: skip
        (entry,) = recorder.named(what)
        assert entry["done"] == entry["total"] == total and entry["unit"] == "frame"
    assert all(entry["ended"] for entry in recorder.tasks)


def test_training_is_told_with_its_losses(tmp_path):
    pytest.importorskip("torch")
    from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
    from ptycho_torch.workflows.reconstruct import train_scan

    raw, recorder = small_scan(40), Recorder()
    config = TrainingConfig(ModelConfig(N=32), nepochs=2, batch_size=8, max_time_s=3600.0, calibrate_probe=False)
    execution = PyTorchExecutionConfig(accelerator="cpu", logger_backend=None)
    with progress.reporting_to(recorder):
        train_scan(raw, config, execution, output_dir=tmp_path)
    (training,) = recorder.named("Training")
    assert training["total"] == 2 and training["done"] == pytest.approx(2) and training["unit"] == "epoch"
    assert 3000 < training["limit_s"] <= 3600 and training["ended"]
    told = [text for text in training["texts"] if text]
    assert len(told) == 2 and all(re.fullmatch(r"loss [\d.]+, validation [\d.]+", text) for text in told)


def test_training_that_fails_ends_its_task():
    pytest.importorskip("torch")
    from types import SimpleNamespace

    from ptycho_torch.callbacks import ProgressReport

    recorder, report = Recorder(), ProgressReport({"loss": "train_loss"})
    trainer = SimpleNamespace(is_global_zero=True, max_epochs=3, num_training_batches=4, current_epoch=0)
    with progress.reporting_to(recorder):
        report.on_fit_start(trainer, None)
        report.on_train_batch_end(trainer, None, None, None, 1)
        report.on_exception(trainer, None, KeyboardInterrupt())
    (entry,) = recorder.tasks
    assert entry["done"] == 0.5 and entry["ended"] and entry["limit_s"] is None


def test_only_one_process_tells_of_training():
    pytest.importorskip("torch")
    from types import SimpleNamespace

    from ptycho_torch.callbacks import ProgressReport

    recorder, report = Recorder(), ProgressReport({})
    with progress.reporting_to(recorder):
        report.on_fit_start(SimpleNamespace(is_global_zero=False, max_epochs=3), None)
    assert recorder.tasks == []
