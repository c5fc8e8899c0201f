"""The table of figures: one column per stage, and what each figure means in a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ptycho.report.content import Content, length_text, stage_title

__all__ = ["FigureRow", "figure_rows", "figure_text", "lead_sentences"]

_DASH = "\N{EN DASH}"


@dataclass(frozen=True)
class FigureRow:
    """A line of the table. values: one per stage. main: it is what readers look for first."""

    label: str
    values: tuple[str, ...]
    meaning: str
    main: bool = False


@dataclass(frozen=True)
class _Figure:
    key: str
    label: str
    form: str
    meaning: str
    main: bool = False


_FIGURES = (
    _Figure("phase_correlation", "Phase correlation", "{:.4f}",
            "Correlation of the phase with the reference's, after registration and without constant and plane; 1 is "
            "perfect, 0 unrelated.", True),
    _Figure("ssim", "SSIM of the phase", "{:.3f}",
            "Structural similarity: how alike the two phases are in local contrast and structure; 1 is identical."),
    _Figure("psnr", "PSNR of the phase (dB)", "{:.1f}",
            "Range of the reference's phase over the rms difference; each 6 dB halve the error."),
    _Figure("frc_resolution_px", "FRC resolution (px)", "{:.2f}",
            "Half period at which the Fourier ring correlation with the reference falls below the half-bit threshold; "
            "smaller is finer, and 1 px is the limit of the grid.", True),
    _Figure("frc_resolution_m", "FRC resolution (length)", "",
            "The same as a length."),
    _Figure("amplitude_correlation", "Amplitude correlation", "{:.4f}",
            "Correlation of the amplitude with the reference's; 0 where either is flat."),
    _Figure("contrast_ratio", "Phase contrast", "{:.3f}",
            "Spread of the phase over the reference's; below 1 the contrast is too weak."),
    _Figure("phase_error", "Phase error (rad)", "{:.4f}",
            "Root mean square difference of the two phases."),
    _Figure("shift_px", "Shift found (rows, columns; px)", "{:.2f}",
            "How far the object was moved to lie on the reference; a common shift is no error of the object."),
    _Figure("registration_residual_px", "Left after registration (px)", "{:.3f}",
            "Shift by which the two still seem to be apart. Above some hundredths of a pixel they do not lie on each "
            "other, and the figures mean little."),
    _Figure("n_pixels", "Pixels compared", "{:,d}",
            "Those that at least two frames have lit, within the square asked for."),
    _Figure("deviance", "Deviance per detector pixel", "{:.3f}",
            "Mean Poisson deviance of the counts from the modelled rates. At the expected value photon noise alone is "
            "left; above it something is not modelled; below it noise was fitted.", True),
    _Figure("expected_deviance", "\N{EN SPACE}expected from photon noise", "{:.3f}",
            "The deviance that photon noise alone has at these rates: 1 where they are high, less where they are low."),
    _Figure("phase_interval_90_rad", "90 % interval of the phase (\N{PLUS-MINUS SIGN} rad)", "{:.4f}",
            "Median over the pixels of the half-width of the interval that is to hold the true phase of a pixel."),
    _Figure("halves_frc_resolution_px", "FRC resolution of two halves (px)", "{:.2f}",
            "Half period down to which the objects of two halves of the scan, reconstructed apart, agree: where their "
            "Fourier ring correlation falls below the half-bit threshold; 1 px is the limit of the grid.", True),
    _Figure("halves_frc_resolution_m", "FRC resolution of two halves (length)", "", "The same as a length."),
    _Figure("heldout_deviance", "Deviance of held-out frames", "{:.3f}",
            "Mean Poisson deviance per detector pixel of the frames of each half under the object of the other half, "
            "which has not seen them. Far above the deviance of the result, noise was fitted.", True),
    _Figure("heldout_expected_deviance", "\N{EN SPACE}expected from photon noise", "{:.3f}",
            "The deviance that photon noise alone has at the rates of the held-out frames."),
    _Figure("heldout_frames_scored", "Held-out frames scored", "{:,d}",
            "Frames of both halves with at least 95 % of their beam where the other half lights the object."),
    _Figure("time_s", "Time (s)", "{:.1f}", "Wall time of this part of the reconstruction."),
)  # fmt: skip
_FORMS = {figure.key: figure.form for figure in _FIGURES}


def figure_rows(content: Content) -> list[FigureRow]:
    """The lines of the table; those that no stage has a value for are left out."""
    columns = [_with_lengths(content.metrics[name], content.pixel_size_m) for name in content.stages]
    rows = []
    for figure in _FIGURES:
        found = [column.get(figure.key) for column in columns]
        if any(value is not None for value in found):
            values = tuple(figure_text(figure.key, value) for value in found)
            rows.append(FigureRow(figure.label, values, figure.meaning, figure.main))
    return rows


def figure_text(key: str, value: Any, missing: str = _DASH) -> str:
    """A figure of metrics.json as it is written for readers; `missing` stands for one that there is not."""
    return missing if value is None else _text(value, _FORMS[key])


def _with_lengths(stage: Mapping[str, Any], pixel_size_m: float | None) -> dict[str, Any]:
    found = dict(stage)
    for name in ("frc_resolution", "halves_frc_resolution"):
        resolution = stage.get(f"{name}_px")
        if resolution is not None and pixel_size_m is not None:
            found[f"{name}_m"] = length_text(resolution * pixel_size_m)
    return found


def _text(value: Any, form: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(part, form) for part in value)
    text = form.format(value)
    return text.removeprefix("-") if not text.strip("-0.") else text  # no minus before a zero


def lead_sentences(content: Content) -> list[str]:
    """The outcome in three sentences at most, with the result beside the stages before it."""
    found = []
    compared = content.metrics.get("compared_with")
    figures = {name: content.metrics[name].get("phase_correlation") for name in reversed(content.stages)}
    if compared and next(iter(figures.values())) is not None:
        text = f"Compared with the {compared}" if " " in str(compared) else f"Compared with {compared}"
        parts = [f"{figure:.4f} {_of(name)}" for name, figure in figures.items() if figure is not None]
        listed = " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
        found.append(f"{text}, the phase correlation is {listed}.")
    elif not compared:
        found.append("There was no reference to compare with: only the counts can tell how good the object is.")
    deviance, expected = (content.result.get(key) for key in ("deviance", "expected_deviance"))
    if deviance is not None and expected:
        found.append(
            f"The result leaves {deviance / expected:.2f} times the deviance that photon noise alone would leave "
            f"({deviance:.3f} against {expected:.3f} per detector pixel)."
        )
    resolution = content.result.get("halves_frc_resolution_px")
    if resolution is not None:
        length = "" if content.pixel_size_m is None else f" ({length_text(resolution * content.pixel_size_m)})"
        found.append(
            f"Two halves of the scan, reconstructed apart, agree down to a half period of {resolution:.2f} px{length}."
        )
    return found


def _of(stage: str) -> str:
    title = stage_title(stage)
    return title if title != stage else f"after the stage {stage}"
