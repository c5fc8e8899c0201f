"""`python -m ptycho_torch.inference`: the older entry point of inference, and the two steps that scripts call.

The command itself is in :mod:`ptycho_torch.cli.inference`.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["cli_main", "save_individual_reconstructions"]

logger = logging.getLogger(__name__)

Real = NDArray[np.floating[Any]]


def _run_inference_and_reconstruct(
    model: Any, raw_data: Any, config: Any, execution_config: Any, device: str, quiet: bool = False
) -> tuple[Real, Real]:
    """The object of a scan by a trained model; every frame is used once.

    Args:
        model: our module, which reconstructs the scan as a stream; or another one with ``forward_predict``, whose
            patches are stitched.
        raw_data: a RawData.
        config: an InferenceConfig; of another module its groups.
        execution_config: device and batch size.
        device: torch's name of the device that the model is moved to.
        quiet: keep from the log what a reader should know (which probe was taken, say).

    Returns:
        (amplitude, phase): (H, W) each, the phase in rad.

    Raises:
        InputError: frames of another side than the model's, or a model that cannot predict.
    """
    model.to(device)
    model.eval()
    from ptycho_torch.model import PtychoPINN_Lightning

    if isinstance(model, PtychoPINN_Lightning):
        from ptycho_torch.workflows import reconstruct

        outcome = reconstruct.infer_with(model, raw_data, execution_config)
        notes = list(outcome.notes)
        if execution_config.num_workers:
            notes.append(f"num_workers={execution_config.num_workers} has no effect: the frames are streamed.")
        for note in () if quiet else notes:
            logger.info("%s", note)
        image = outcome.result.object
        return np.abs(image), np.angle(image)
    return _stitched(model, raw_data, config, execution_config)


def _stitched(model: Any, raw_data: Any, config: Any, execution_config: Any) -> tuple[Real, Real]:
    """The object of a module that is not ours, from its patches."""
    from ptycho.errors import InputError
    from ptycho_torch.workflows import components

    if not hasattr(model, "forward_predict"):
        raise InputError(
            f"found a model of type {type(model).__name__}, expected one with forward_predict(X, positions, probe, "
            "input_scale_factor). Name the output folder of a training run."
        )
    # what it looks for in the results of a training run
    trained = {
        "models": {"diffraction_to_obj": model},
        "payload": SimpleNamespace(execution_config=execution_config),
    }
    amplitude, phase, _ = components._reassemble_cdi_image_torch(
        raw_data, config, flip_x=False, flip_y=False, transpose=False, M=20, train_results=trained
    )
    return amplitude, phase


def save_individual_reconstructions(amplitude: Real, phase: Real, output_dir: str | Path) -> None:
    """Write reconstructed_amplitude.png, reconstructed_phase.png and reconstructed_object.npz.

    What is exactly vacuum (1 and 0) has not been seen and is left grey. The phase is drawn without its plane.

    Args:
        amplitude, phase: (H, W) each, the phase in rad.
        output_dir: made if it is not there.

    Raises:
        InputError: arrays of different shapes, or not of two axes.
        OutputError: the files cannot be written.
    """
    from ptycho import plotting
    from ptycho.errors import InputError
    from ptycho.io.atomic import atomic_path

    if amplitude.ndim != 2 or amplitude.shape != phase.shape:
        raise InputError(f"amplitude {amplitude.shape} and phase {phase.shape}: expected two arrays (H, W).")
    out = Path(output_dir)
    image = (amplitude * np.exp(1j * phase)).astype(np.complex64)
    seen = (amplitude != 1) | (phase != 0)
    with atomic_path(out / "reconstructed_object.npz") as temporary, open(temporary, "wb") as stream:
        np.savez(stream, object=image)
    figures = {"amplitude": plotting.amplitude_figure(image, seen), "phase": plotting.phase_figure(image, seen)}
    for name, figure in figures.items():
        with atomic_path(out / f"reconstructed_{name}.png") as temporary:
            figure.savefig(temporary)


def cli_main() -> None:
    """Reconstruct as ``sys.argv`` says.

    Raises:
        SystemExit: 1 after a message on standard error; nothing else leaves.
    """
    from ptycho.cli.mistakes import run_to_exit
    from ptycho_torch.cli.inference import PROGRAM, inference

    run_to_exit(inference, sys.argv[1:], PROGRAM)


if __name__ == "__main__":
    cli_main()
