"""A small simulated scan and a made-up run on it, for tests of files, pictures and the command line."""

import contextlib
from types import SimpleNamespace

import numpy as np
from click.testing import CliRunner

from ptycho.cli import shared
from ptycho.cli.main import cli
from ptycho.diffsim import make_object, make_probe, make_scan, object_shape_for, on_object, simulate_scan
from ptycho.geometry import canvas_for, coverage_map, placements
from ptycho.halves import Halves, HalvesFigures
from ptycho.metrics import RingCorrelation
from ptycho.outcome import Outcome, Stage

SIDE = 32


def small_scan(n_frames=60, seed=3, N=SIDE, **known):
    """60 Fermat frames of dead leaves, N = 32, with the truth."""
    probe = make_probe("gaussian", N, fwhm=12.0)
    x, y = make_scan("fermat", n_frames, 4.0)
    shape = object_shape_for(x, y, N)
    image = make_object("dead_leaves", shape, seed)
    return simulate_scan(image, probe, *on_object(x, y, shape), 1e4, seed=seed, **known)


def cut_to_canvas(raw, canvas):
    """The true object on the canvas of a run, vacuum beyond it; whole-pixel placement is good enough here."""
    left, top = (round(v) for v in canvas.origin_xy)
    result = np.ones(canvas.shape, dtype=np.complex64)
    height, width = raw.object_truth.shape
    rows = slice(max(top, 0), min(top + canvas.shape[0], height))
    cols = slice(max(left, 0), min(left + canvas.shape[1], width))
    part = raw.object_truth[rows, cols]
    result[rows.start - top : rows.stop - top, cols.start - left : cols.stop - left] = part
    return result


def made_up_outcome(raw, noise=(0.3, 0.05), seed=0):
    """An outcome whose stages are the truth with noise, turned by a plane and a constant of the phase."""
    rng = np.random.default_rng(seed)
    canvas = canvas_for(raw.xcoords, raw.ycoords, raw.N)
    starts, _ = placements(raw.xcoords, raw.ycoords, raw.N, canvas)
    truth = cut_to_canvas(raw, canvas)
    rows, cols = np.indices(canvas.shape)
    stages = {}
    for name, level in zip(("projection", "network"), noise, strict=True):
        grain = level * (rng.standard_normal(canvas.shape) + 1j * rng.standard_normal(canvas.shape))
        image = (truth + grain) * np.exp(1j * (0.7 + 0.02 * rows - 0.01 * cols))
        stages[name] = Stage(
            image.astype(np.complex64), deviance=1.0 + level, expected_deviance=0.9, time_s=1.5
        )
    return Outcome(
        stages=stages,
        coverage=coverage_map(starts, raw.N, canvas.shape),
        probe=raw.probe,
        canvas=canvas,
        xcoords=raw.xcoords,
        ycoords=raw.ycoords,
        timings_s={"training": 3.0, "total": 4.0},
        losses={"train": [2.0, 1.0], "val": [2.1, 1.1]},
        notes=["The frames hold counts."],
        settings={"seed": seed},
    )


def made_up_halves(crossings=(0.2, 0.4)):
    """What two halves of a scan may say of the stages of a made-up outcome: straight curves of 33 rings."""
    frequency = np.linspace(0, 0.5, 33)
    stages = {}
    for name, crossing in zip(("projection", "network"), crossings, strict=True):
        fall = np.clip(1 - 0.8 * frequency / crossing, 0, 1)
        curve = RingCorrelation(frequency, fall, np.full(33, 0.2), np.full(33, 100.0), crossing)
        stages[name] = HalvesFigures(curve, (0.1, -0.2), 1.25 + crossing, 0.9, 41)
    return Halves(stages, (30, 30), "Nothing but the probe is shared.")


def use_made_up_backend(monkeypatch):
    """Stands where torch begins; remembers what it was asked for."""
    calls = SimpleNamespace(train=None, infer=None)

    def train_scans(raws, config, execution=None, *, output_dir, refine=None, uncertainty=None, halves=None):
        calls.train = SimpleNamespace(
            raw=raws[0], raws=raws, config=config, execution=execution, output_dir=output_dir, refine=refine,
            uncertainty=uncertainty, halves=halves,
        )  # fmt: skip
        (output_dir / "wts.h5.zip").write_bytes(b"model")
        return [made_up_outcome(raw) for raw in raws]

    def infer_scan(
        model_path, raw, config=None, execution=None, *, refine=None, uncertainty=None, halves=None, projections=None,
        canvas_folder=None,
    ):
        calls.infer = SimpleNamespace(
            model_path=model_path, raw=raw, config=config, execution=execution, refine=refine, uncertainty=uncertainty,
            halves=halves, projections=projections, canvas_folder=canvas_folder,
        )  # fmt: skip
        return made_up_outcome(raw)

    def nothing_to_refuse(*_args, **_keywords):
        """What the real backend refuses before it begins, is tested with it."""

    backend = SimpleNamespace(
        train_scans=train_scans, infer_scan=infer_scan, check_training=nothing_to_refuse,
        check_inference=nothing_to_refuse,
    )  # fmt: skip
    monkeypatch.setattr(shared, "load_backend", lambda: backend)
    monkeypatch.setattr("ptycho.io.outputs._write_pictures", lambda *_: None)
    monkeypatch.setattr("ptycho.io.outputs._write_comparison", lambda *_: None)
    return calls


def run(*args):
    return CliRunner().invoke(cli, [str(a) for a in args])


def check_mistake(result, *fragments):
    """Exit code 2, one message on standard error, nothing like a traceback, nothing on standard output."""
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert result.stdout == "" and result.stderr.count("Error: ") == 1
    for fragment in fragments:
        assert fragment in result.stderr


class Recorder:
    """A reporter of progress that writes everything down."""

    def __init__(self):
        self.tasks = []

    @contextlib.contextmanager
    def task(self, what, total, unit, limit_s):
        entry = {
            "what": what,
            "total": total,
            "unit": unit,
            "limit_s": limit_s,
            "done": 0.0,
            "texts": [],
            "ended": False,
        }
        self.tasks.append(entry)

        def step(done=1.0, text=""):
            entry["done"] += done
            entry["texts"].append(text)

        try:
            yield step
        finally:
            entry["ended"] = True

    def named(self, what):
        return [entry for entry in self.tasks if entry["what"] == what]
