"""A headless ptychodus: scans of ours as its products, its trainings and reconstructions, its world coordinates.

Everything goes through ptychodus's own objects: the files it reads, its model core, and the child processes that it
spawns. Positions are metres of its world; truth pixel [0, 0] lies at `CORNER_M`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import itertools
import logging
import pickle
import queue
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ptychodus.api.assemble import AssembledDiffractionData
from ptychodus.api.constants import energy_eV_to_wavelength_m
from ptychodus.api.geometry import PixelGeometry
from ptychodus.api.io import StandardFileLayout, save_diffraction_data, save_product
from ptychodus.api.object import Object, ObjectCenter
from ptychodus.api.probe import ProbeSequence
from ptychodus.api.probe_positions import ProbePosition, ProbePositionSequence
from ptychodus.api.product import Product, ProductMetadata
from ptychodus.api.reconstruct import TrainOutput
from ptychodus.model import ModelCore
from scipy import ndimage

from ptycho.diffsim import ZonePlate, make_object, make_probe, make_scan, object_shape_for, on_object, simulate_scan
from ptycho.geometry import Canvas
from ptycho.metrics import compare_objects
from ptycho.metrics.alignment import find_slopes, ramp, unit_modulus, without_plane
from ptycho.placed import lit_frames
from ptycho.raw_data import RawData

PINN, LABELLED = "ptychopinn_pinn", "ptychopinn_supervised"
TORCH, TORCH_LABELLED = "ptychopinn-torch_unsupervised", "ptychopinn-torch_supervised"
DETECTOR_PIXEL_M, ENERGY_EV, DISTANCE_M = 75e-6, 10e3, 2.0
CORNER_M = (37.31e-6, -12.07e-6)
"""(x, y) in ptychodus's world of the truth's pixel [0, 0]."""


def simulated(
    n_frames: int = 302, N: int = 64, *, defocus_error: float = 0.0, modes: tuple[float, ...] | None = None,
    counts: float = 2e5, seed: int = 0,
) -> RawData:  # fmt: skip
    """Dead leaves along a Fermat spiral of so many frames, with truth; all that is left of a straight line is left out,
    so that rows are not columns, and the mean of the positions not the middle of their range.

    defocus_error: relative, of the probe guess. modes: powers of incoherent modes of the probe.
    """
    optics = ZonePlate()
    optics = dataclasses.replace(optics, defocus=optics.defocus * N / 64)
    probe, guess = (
        make_probe("zone_plate", N, optics=o, mode_powers=modes)
        for o in (optics, optics.with_defocus_error(defocus_error))
    )
    x, y = make_scan("fermat", n_frames, 0.17 * _width(probe))
    inside = x > x.min() + 0.12 * np.ptp(x)
    x, y = x[inside], y[inside]
    shape = object_shape_for(x, y, N)
    x = x - (x.min() + x.max()) / 2
    y = y - (y.min() + y.max()) / 2
    x, y = on_object(x, y, shape)
    obj = make_object("dead_leaves", shape, seed + 1)
    return simulate_scan(obj, probe, x, y, counts, seed=seed + 2, probe_guess=guess)


def _width(probe: np.ndarray) -> float:
    from ptycho.diffsim import probe_diameter

    return probe_diameter(probe)


def product_of(raw: RawData, *, pad: tuple[int, int] = (0, 0), guess: np.ndarray | None = None) -> Product:
    """The scan as ptychodus knows it: an object canvas round the middle of all positions, larger by `pad` pixels.

    guess: the object guess on that canvas; None for ones, as in a new product.
    """
    shape, center, side = canvas_shape(raw, pad), middle_m(raw), pixel_m(raw)
    pixel = PixelGeometry(width_m=side, height_m=side)
    array = np.ones(shape, dtype=complex) if guess is None else guess.astype(complex)
    assert array.shape == shape
    x_m, y_m = CORNER_M[0] + raw.xcoords * side, CORNER_M[1] + raw.ycoords * side
    points = [ProbePosition(i, float(x), float(y)) for i, (x, y) in enumerate(zip(x_m, y_m, strict=True))]
    metadata = ProductMetadata(
        name="scan", comments="", detector_distance_m=DISTANCE_M, photon_energy_eV=ENERGY_EV,
        probe_photon_count=raw.mean_counts_per_frame(), exposure_time_s=0.0, mass_attenuation_m2_per_kg=0.0,
        tomography_angle_deg=0.0,
    )  # fmt: skip
    return Product(
        metadata=metadata,
        probe_positions=ProbePositionSequence(points),
        # an arbitrary scale: what a product holds is not always in photons
        probes=ProbeSequence(array=3.7 * raw.probe.astype(complex), opr_weights=None, pixel_geometry=pixel),
        object_=Object(array=array, pixel_geometry=pixel, center=center),
        losses=[],
    )


def pixel_m(raw: RawData) -> float:
    """Side of an object pixel, as ptychodus computes it from the metadata."""
    return energy_eV_to_wavelength_m(ENERGY_EV) * DISTANCE_M / (raw.N * DETECTOR_PIXEL_M)


def canvas_shape(raw: RawData, pad: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """(rows, columns) of the smallest canvas that ptychodus makes for a scan, larger by `pad`."""
    rows, columns = (int(np.ceil(np.ptp(values))) + raw.N for values in (raw.ycoords, raw.xcoords))
    return rows + pad[0], columns + pad[1]


def middle_m(raw: RawData) -> ObjectCenter:
    """The middle of the bounding box of the positions, in the world."""
    x, y = ((v.min() + v.max()) / 2 for v in (raw.xcoords, raw.ycoords))
    return ObjectCenter(x_m=CORNER_M[0] + x * pixel_m(raw), y_m=CORNER_M[1] + y * pixel_m(raw))


def diffraction_of(raw: RawData) -> AssembledDiffractionData:
    """The frames as ptychodus keeps them: counts, and the mask."""
    bad = np.zeros((raw.N, raw.N), dtype=bool) if raw.bad_pixels is None else raw.bad_pixels
    pixel = PixelGeometry(width_m=DETECTOR_PIXEL_M, height_m=DETECTOR_PIXEL_M)
    # pixels that a mask marks hold whatever the detector says there
    frames = np.where(bad, np.array(np.iinfo(raw.diff3d.dtype).max, raw.diff3d.dtype), raw.diff3d)
    return AssembledDiffractionData(np.arange(raw.n_frames), frames, pixel, bad)


def write_input(folder: Path, raw: RawData, product: Product | None = None) -> Path:
    """diffraction.h5 and product.h5, where the command line and a session look for them."""
    folder.mkdir(parents=True, exist_ok=True)
    save_diffraction_data(StandardFileLayout.DIFFRACTION.path(folder), diffraction_of(raw))
    save_product(StandardFileLayout.PRODUCT.path(folder), product_of(raw) if product is None else product)
    return folder


class Session:
    """A running model core with one scan in it; `algorithm` is the reconstructor that is chosen."""

    def __init__(self, core: ModelCore, algorithm: str) -> None:
        self.core = core
        self.processing = core.processing_core.processing_api
        self.processing.set_reconstructor_if_provided(algorithm)
        self.algorithm = algorithm
        self.scan: Any = None

    def load(self, folder: Path) -> Session:
        """The scan of an input folder."""
        data = self.core.workflow_api.load_assembled_diffraction_data(StandardFileLayout.DIFFRACTION.path(folder))
        self.scan = self.core.workflow_api.load_product(StandardFileLayout.PRODUCT.path(folder), diffraction=data)
        return self

    @property
    def reconstructor(self) -> Any:
        """ptychodus's adapter of the chosen library."""
        return self.core.processing_core.algorithm_parameter.get_current_reconstructor()

    def change(self, **settings: Any) -> Session:
        """Set settings of the chosen library, by the names that its settings objects give them."""
        for name, value in settings.items():
            found = [getattr(group, name) for group in self._groups() if hasattr(group, name)]
            assert found, f"ptychodus has no setting {name}"
            found[0].set_value(value)
        return self

    def quick(self, epochs: int) -> Session:
        """So many epochs, in as few processes as possible; else ptychodus's defaults."""
        if "torch" in self.algorithm:
            return self.change(epochs=epochs, num_dataloader_workers=0)
        return self.change(nepochs=epochs)

    def _groups(self) -> list[Any]:
        library = (
            self.core.ptychopinn_torch_reconstructor_library
            if "torch" in self.algorithm
            else self.core.ptychopinn_reconstructor_library
        )
        return [value for name, value in vars(library).items() if name.endswith("_settings")]

    def export(self, folder: Path) -> Path:
        """The training data, under the names that the first library prescribes."""
        folder.mkdir(parents=True, exist_ok=True)
        names = ("train_data.npz",) if "torch" in self.algorithm else ("train_data.npz", "test_data.npz")
        for name in names:
            self.scan.export_training_data(folder / name)
        return folder

    def train(self, folder: Path, output: Path | None = None) -> None:
        """ptychodus's training path, in its background task and child process."""
        self.scan.train_reconstructor_local(folder, folder if output is None else output, block=True)

    def outputs(self, folder: Path, output: Path | None = None) -> list[TrainOutput]:
        """The same training, with what the child reports."""
        return list(self.reconstructor.train(folder, folder if output is None else output))

    def train_here(self, folder: Path, output: Path | None = None) -> None:
        """The child's own function, on the pickled payload, but in this process, which saves its start."""
        payload = self.reconstructor._build_train_payload(folder, folder if output is None else output)
        self._child().run_train(pickle.loads(pickle.dumps(payload)), queue.Queue())

    def reconstruct_here(self) -> None:
        """The same for a reconstruction."""
        parameters = self.processing.get_reconstruct_input(product_index=self.scan.get_product_index())
        payload = self.reconstructor._build_reconstruct_payload(parameters, self.reconstructor._loaded_model_path)
        self._child().run_reconstruct(pickle.loads(pickle.dumps(payload)), queue.Queue())

    def _child(self) -> Any:
        return importlib.import_module(self.reconstructor._train_entry_point.partition(":")[0])

    def reconstruct(self, **options: Any) -> Product:
        """ptychodus's reconstruction path; the product that it makes."""
        product: Product = self.scan.reconstruct_local(block=True, **options).get_product()
        return product


@contextlib.contextmanager
def session(algorithm: str, folder: Path | None = None) -> Iterator[Session]:
    """A model core for a while, with the scan of an input folder; nothing may be left in the working directory."""
    with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty):
        with ModelCore(log_level=logging.getLogger().level) as core:
            opened = Session(core, algorithm)
            yield opened if folder is None else opened.load(folder)
        litter = sorted(path.name for path in Path(empty).rglob("*"))
        assert not litter, f"found {litter} in the working directory"


@dataclass(frozen=True)
class Figures:
    """How a returned object agrees with the truth.

    correlation: of the phases after registration. shift_px: (row, column) that registration found beyond the world
    coordinates. unregistered: the correlation exactly where the world coordinates say. best: whole-pixel (row, column)
    shift with the highest one. turned: the highest correlation of the object mirrored or transposed. amplitude: mean
    modulus where two beams have been.
    """

    correlation: float
    shift_px: tuple[float, float]
    unregistered: float
    best: tuple[int, int]
    turned: float
    amplitude: float


def figures(product: Product, raw: RawData) -> Figures:
    """Compare the object of a product with the truth of its scan, in ptychodus's world."""
    image = product.object_.get_layer(0)
    truth = np.asarray(raw.object_truth)
    lit = lit_frames(raw.probe_truth, raw.xcoords, raw.ycoords, _truth_canvas(truth)) >= 2
    own, other = _centers(product, raw)
    found = compare_objects(image, truth, a_center=own, b_center=other, covered=lit, max_shift=4)
    reference, seen = on_grid(truth, lit, (own[0] - other[0], own[1] - other[1]), image.shape)
    shifts = list(itertools.product(range(-2, 3), repeat=2))
    correlations = {shift: _correlation(np.roll(image, shift, axis=(0, 1)), reference, seen) for shift in shifts}
    return Figures(
        found.phase_correlation, found.shift_px, correlations[0, 0], max(correlations, key=correlations.__getitem__),
        max(_registered(turned, image.shape, own, truth, other, lit) for turned in _turned(image)),
        float(np.abs(image)[seen].mean()),
    )  # fmt: skip


def on_grid(
    truth: np.ndarray, lit: np.ndarray, offset: tuple[float, float], shape: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The truth on another pixel grid, 1 beyond its rim, and where two beams have lit it.

    offset: (row, column); truth pixel r lies at r + offset of that grid.
    """
    rows, columns = np.indices(shape)
    at = (rows - offset[0], columns - offset[1])
    real = ndimage.map_coordinates(truth.real, at, order=3, mode="constant", cval=1.0)
    imaginary = ndimage.map_coordinates(truth.imag, at, order=3, mode="constant", cval=0.0)
    seen = ndimage.map_coordinates(lit.astype(float), at, order=1, mode="constant", cval=0.0) > 0.99
    return real + 1j * imaginary, seen


def guess_of(raw: RawData, pad: tuple[int, int] = (0, 0), blur: float = 0.7) -> np.ndarray:
    """The truth, slightly wrong (blurred by `blur` pixels), on the canvas of the scan's product."""
    truth = np.asarray(raw.object_truth)
    shape = canvas_shape(raw, pad)
    x, y = ((v.min() + v.max()) / 2 for v in (raw.xcoords, raw.ycoords))
    offset = ((shape[0] - 1) / 2 - y, (shape[1] - 1) / 2 - x)
    exact, _ = on_grid(truth, np.ones(truth.shape, bool), offset, shape)
    return ndimage.gaussian_filter(exact.real, blur) + 1j * ndimage.gaussian_filter(exact.imag, blur)


def _truth_canvas(truth: np.ndarray) -> Canvas:
    height, width = truth.shape
    return Canvas((height, width), ((width - 1) / 2, (height - 1) / 2))


def _centers(product: Product, raw: RawData) -> tuple[tuple[float, float], tuple[float, float]]:
    """(row, column) of one point of the world, in the product's object and in the truth."""
    geometry = product.object_.get_geometry()
    point = middle_m(raw)
    column = (point.x_m - geometry.center_x_m) / geometry.pixel_width_m + (geometry.width_px - 1) / 2
    row = (point.y_m - geometry.center_y_m) / geometry.pixel_height_m + (geometry.height_px - 1) / 2
    x, y = ((v.min() + v.max()) / 2 for v in (raw.xcoords, raw.ycoords))
    return (row, column), (y, x)


def _correlation(image: np.ndarray, reference: np.ndarray, region: np.ndarray) -> float:
    """Of the phases, after each lost its constant and plane; nothing is registered."""
    weight = region.astype(float)
    phases = []
    for field in (image, reference):
        slopes = find_slopes(field, weight)
        unit = unit_modulus(field) * ramp(field.shape, (-slopes[0], -slopes[1]))
        phases.append(without_plane(np.angle(unit * np.conj(np.sum(weight * unit))), weight)[region])
    return float(np.corrcoef(phases)[0, 1])


def _turned(image: np.ndarray) -> Iterator[np.ndarray]:
    """Mirrored, turned, transposed, and the complex conjugates; not the image itself."""
    for flip_rows, flip_columns, transpose, conjugate in itertools.product((False, True), repeat=4):
        if not (flip_rows or flip_columns or transpose or conjugate):
            continue
        turned = image[::-1] if flip_rows else image
        turned = turned[:, ::-1] if flip_columns else turned
        turned = turned.T if transpose else turned
        yield turned.conj() if conjugate else turned


def _registered(
    image: np.ndarray, shape: tuple[int, ...], own: tuple[float, float], truth: np.ndarray,
    other: tuple[float, float], lit: np.ndarray,
) -> float:  # fmt: skip
    center = own if image.shape == shape else (own[1], own[0])
    return compare_objects(
        image, truth, a_center=center, b_center=other, covered=lit, max_shift=8
    ).phase_correlation
