"""The report: self-contained, complete, safe against what a file name may hold, readable without seeing it."""

import base64
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser

import numpy as np
import pytest
from runs import made_up_halves, made_up_outcome, small_scan

from ptycho.io.outputs import RESULT_FILES, write_outputs
from ptycho.report import Content, render_report
from ptycho.report.content import length_text
from ptycho.report.figures import figure_rows, lead_sentences

PNG = b"\x89PNG\r\n\x1a\n made up"
# Elements that never have an end tag.
VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """The elements of a page, its text, and whether every element is closed."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def content(**changes):
    stage = {"phase_correlation": 0.9, "ssim": 0.8, "deviance": 1.2, "expected_deviance": 0.8, "time_s": 2.0,
             "frc_resolution_px": 1.5, "shift_px": [0.001, -0.0004], "n_pixels": 12345}  # fmt: skip
    metrics = {
        "projection": stage,
        "network": {**stage, "phase_correlation": 0.95, "deviance": 0.88},
        "compared_with": "true object",
        "half": None,
        "times_s": {"calibration": 3.21, "total": 60.0},
        "losses": {},
        "notes": ["The probe was refined."],
        "settings": {"nepochs": 50, "model": {"N": 64, "gridsize": None}, "empty": {}},
        "versions": {"python": "3.11.9", "torch": "2.5"},
    }
    made = Content(
        name="star", source="star.npz", created=datetime(2025, 3, 4, 15, 6, tzinfo=UTC),
        stages=("projection", "network"), metrics=metrics, pictures={"phase.png": PNG, "residual.png": PNG},
        n_frames=600, side=64, n_modes=2, shape=(202, 204), masked=10, counts=1234.5, pixel_size_m=2e-8,
        photon_energy_ev=8800.0, detector_distance_m=1.9,
    )  # fmt: skip
    return replace(made, **changes)


# ---------------------------------------------------------------------- the page


def test_the_page_needs_nothing_beside_itself():
    text = render_report(content())
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "audio", "video"} & {tag for tag, _ in page.elements}
    assert all(attrs["src"].startswith("data:image/png;base64,") for attrs in page.all("img"))
    assert not re.search(r"https?://|@import|url\(|\bsrc=\"(?!data:)|\bhref=", text)
    assert any("default-src 'none'" in attrs.get("content", "") for attrs in page.all("meta"))
    assert text.startswith("<!DOCTYPE html>") and {"charset": "utf-8"} in page.all("meta")
    assert "@media print" in text and "size: A4" in text
    assert page.all("html") == [{"lang": "en"}]


def test_pictures_are_embedded_as_they_are_and_described():
    page = Page(render_report(content()))
    images = page.all("img")
    assert len(images) == 2
    for attrs in images:
        assert base64.b64decode(attrs["src"].split(",")[1]) == PNG
        assert len(attrs["alt"]) > 20
    assert len(page.all("figure")) == len(page.all("figcaption")) == 2
    assert "Phase" in page.text and "Residual on the detector" in page.text
    assert "Losses" not in page.text and "Probe and scan" not in page.text, "no headings without pictures"


def test_the_page_says_what_when_and_how():
    text = Page(render_report(content())).text
    for words in (
        "star", "04 March 2025, 15:06", "The probe was refined.", "600 of 64", "10 (0.24 %)", "1,234 (mean)", "20 nm",
        "4.08 \N{MICRO SIGN}m", "8.8 keV", "1.9 m", "2 modes", "model.N", "not set", "Calibration of the probe",
        "3.2 s", "3.11.9",
    ):  # fmt: skip
        assert words in text, words


def test_settings_are_folded_away():
    page = Page(render_report(content()))
    (details,) = page.all("details")
    assert "open" not in details


def test_what_a_file_is_called_cannot_become_part_of_the_page():
    nasty = '<img src=x onerror="alert(1)">&amp;'
    made = content(name=nasty, source=nasty)
    metrics = {**made.metrics, "notes": [nasty], "settings": {nasty: nasty}, "compared_with": nasty}
    page = Page(render_report(replace(made, metrics=metrics)))
    assert page.text.count(nasty) >= 5
    assert all(attrs["src"].startswith("data:") for attrs in page.all("img"))


def test_a_page_of_almost_nothing():
    bare = content(
        pictures={}, masked=None, counts=None, pixel_size_m=None, photon_energy_ev=None, detector_distance_m=None,
        source="", n_modes=1, stages=("network",),
        metrics={"network": {"deviance": None, "expected_deviance": None, "time_s": 1.0}, "compared_with": None},
    )  # fmt: skip
    page = Page(render_report(bare))
    assert "size not known; lengths are in pixels" in page.text and "1 mode" in page.text
    assert "no reference" in page.text and not page.all("img") and not page.all("details")


# ---------------------------------------------------------------------- the figures


def test_figures_stand_beside_each_other_with_their_meaning():
    rows = {row.label: row for row in figure_rows(content())}
    assert rows["Phase correlation"].values == ("0.9000", "0.9500")
    assert rows["FRC resolution (length)"].values == ("30 nm", "30 nm")
    assert rows["Shift found (rows, columns; px)"].values == ("0.00, 0.00", "0.00, 0.00"), "no minus before a zero"
    assert rows["Pixels compared"].values[0] == "12,345"
    assert all(row.meaning.endswith(".") and len(row.values) == 2 for row in rows.values())
    assert "PSNR of the phase (dB)" not in rows, "nobody has it"
    page = Page(render_report(content()))
    assert "without the network" in page.text and "with the network" in page.text
    assert sum(attrs.get("scope") == "row" for attrs in page.all("th")) >= len(rows)


def test_a_figure_that_one_stage_lacks_is_a_dash():
    made = content()
    made.metrics["projection"].pop("ssim", None)
    metrics = {**made.metrics, "projection": {**made.metrics["projection"], "ssim": None}}
    metrics["network"] = {**metrics["network"], "ssim": 0.5}
    rows = {row.label: row for row in figure_rows(replace(made, metrics=metrics))}
    assert rows["SSIM of the phase"].values == ("\N{EN DASH}", "0.500")


def test_the_lead_names_both_figures_and_the_noise():
    text = " ".join(lead_sentences(content()))
    assert "the true object" in text and "0.9500 with the network and 0.9000 without the network" in text
    assert "1.10 times" in text


def test_the_lead_and_the_table_name_what_the_halves_say():
    made = content()
    metrics = dict(made.metrics)
    for name, resolution in (("projection", 2.5), ("network", None)):
        metrics[name] = {
            **metrics[name], "halves_frc_resolution_px": resolution, "heldout_deviance": 1.5,
            "heldout_frames_scored": 1234,
        }  # fmt: skip
    made = replace(made, metrics=metrics)
    rows = {row.label: row for row in figure_rows(made)}
    assert rows["FRC resolution of two halves (px)"].values == ("2.50", "\N{EN DASH}")
    assert rows["FRC resolution of two halves (length)"].values == ("50 nm", "\N{EN DASH}")
    assert rows["Deviance of held-out frames"].values == ("1.500", "1.500")
    assert rows["Held-out frames scored"].values == ("1,234", "1,234")
    assert not any("halves" in sentence for sentence in lead_sentences(made)), "of the result alone"
    turned = lead_sentences(replace(made, stages=("network", "projection")))
    assert turned[-1].endswith("agree down to a half period of 2.50 px (50 nm).")


def test_the_lead_without_a_reference():
    made = content()
    text = " ".join(lead_sentences(replace(made, metrics={**made.metrics, "compared_with": None})))
    assert "no reference" in text and "correlation" not in text


def test_other_stages_keep_their_names():
    made = content(stages=("start", "third"))
    metrics = {**made.metrics, "start": made.metrics["projection"], "third": made.metrics["network"]}
    made = replace(made, metrics=metrics)
    assert "0.9500 after the stage third and 0.9000 at the start" in lead_sentences(made)[0]
    assert "third" in Page(render_report(made)).text


@pytest.mark.parametrize(
    ("length_m", "text"),
    [
        (1.23e-8, "12.3 nm"),
        (9.999e-7, "1 \N{MICRO SIGN}m"),
        (1e-6, "1 \N{MICRO SIGN}m"),
        (4.5e-5, "45 \N{MICRO SIGN}m"),
        (2e-3, "2 mm"),
        (3.0, "3 m"),
    ],
)
def test_lengths(length_m, text):
    assert length_text(length_m) == text


# ---------------------------------------------------------------------- written by a run


def test_a_run_writes_its_report(tmp_path):
    scan = small_scan(pixel_size_m=2e-8)
    outcome = made_up_outcome(scan)
    outcome.frame_deviance = np.ones(scan.n_frames, np.float32)
    outcome.detector_residual = np.zeros((scan.N, scan.N), np.float32)
    outcome.phase_interval_90_rad = np.full(outcome.canvas.shape, 0.1, np.float32)
    outcome.halves = made_up_halves()
    metrics = write_outputs(tmp_path, outcome, scan)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    pngs = [name for name in RESULT_FILES if name.endswith(".png")]
    embedded = {attrs["src"].split(",")[1] for attrs in page.all("img")}
    assert embedded == {base64.b64encode((tmp_path / name).read_bytes()).decode() for name in pngs}
    assert f"{metrics['network']['phase_correlation']:.4f}" in page.text
    assert f"{metrics['projection']['phase_correlation']:.4f}" in page.text
    assert f"{scan.n_frames} of {scan.N}" in page.text and "The frames hold counts." in page.text
    assert "4.0 s" in page.text and "numpy" in page.text
    assert len(text) < 6_000_000


def test_a_trained_run_hands_over_what_the_report_shows(tmp_path):
    pytest.importorskip("torch")
    from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig
    from ptycho_torch.workflows.reconstruct import infer_scan, train_scan

    bad = np.zeros((32, 32), bool)
    bad[3, 7] = True
    scan = small_scan(40, bad_pixels=bad)
    config = TrainingConfig(ModelConfig(N=32), nepochs=1, batch_size=8)
    execution = PyTorchExecutionConfig(accelerator="cpu", logger_backend=None)
    trained = train_scan(scan, config, execution, output_dir=tmp_path / "run")
    for outcome in (trained, infer_scan(tmp_path / "run", scan, execution=execution)):
        assert outcome.frame_deviance.shape == (40,) and outcome.detector_residual.shape == (32, 32)
        assert outcome.frame_deviance.mean() == pytest.approx(outcome.result.deviance, rel=1e-5)
        np.testing.assert_array_equal(np.isnan(outcome.detector_residual), bad)
    write_outputs(tmp_path / "run", trained, scan)
    text = Page((tmp_path / "run" / "report.html").read_text(encoding="utf-8")).text
    for heading in ("Positions and residual", "Residual on the detector", "Losses", "Beside the reference"):
        assert heading in text
    assert "1 (0.098 %)" in text and "Hatched: masked." in text
