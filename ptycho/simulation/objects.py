"""Complex objects to simulate with.

Every generator draws two maps in [0, 1] of shape (H, W): the "thickness" seen by the amplitude and the one
seen by the phase.  `make_object` turns them into a transmission function

    O = amplitude * exp(i * phase),  amplitude = hi - (hi - lo) * map,  phase = lo + (hi - lo) * map

so that map 0 is the emptiest part of the object (most transparent, phase at its lower bound).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from ptycho.errors import InputError, MissingFileError

FloatMap = NDArray[np.float64]
Maps = tuple[FloatMap, FloatMap]
Generator = Callable[..., Maps]


def _soft_step(distance: FloatMap) -> FloatMap:
    """1 where `distance` (px, positive inside) is inside an edge, 0 outside, linear over one pixel."""
    return np.clip(distance + 0.5, 0.0, 1.0)


def lines(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    n_lines: int | None = None,
    width: tuple[float, float] = (2.0, 8.0),
) -> Maps:
    """Straight lines of random place, direction, width (px, uniform within `width`) and strength.

    `n_lines` defaults to about one line for each 6 px of the mean side.  Overlapping lines add, and the sum
    is scaled to [0, 1].
    """
    _check_sizes("width", width)
    height, breadth = shape
    count = n_lines if n_lines is not None else max(4, round((height + breadth) / 12))
    reach = 0.5 * float(np.hypot(height, breadth))
    amplitude, phase = np.zeros(shape), np.zeros(shape)
    for _ in range(count):
        angle = rng.uniform(0, np.pi)
        offset = rng.uniform(-reach, reach)
        half_width = 0.5 * rng.uniform(*width)
        strength_amp, strength_phase = rng.uniform(0.2, 1.0, 2)
        place, profile = _line(shape, angle, offset, half_width)
        amplitude[place] += strength_amp * profile
        phase[place] += strength_phase * profile
    return _to_unit(amplitude), _to_unit(phase)


def _line(
    shape: tuple[int, int], angle: float, offset: float, half_width: float
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], FloatMap]:
    """Pixels (rows, cols) near the line cos(angle)*row + sin(angle)*col = offset; its profile there."""
    across = (np.cos(angle), np.sin(angle))
    # Walk along the axis nearer to the line's direction; look at a few pixels to each side of it.
    along = 0 if abs(across[1]) >= abs(across[0]) else 1
    middle = [(side - 1) / 2 for side in shape]
    steps = np.arange(shape[along])[:, None]
    centre = (offset - across[along] * (steps - middle[along])) / across[1 - along] + middle[1 - along]
    reach = int(np.ceil((half_width + 1) / abs(across[1 - along]))) + 1
    others = np.rint(centre).astype(np.int64) + np.arange(-reach, reach + 1)
    inside = (others >= 0) & (others < shape[1 - along])
    walked, other = np.broadcast_to(steps, others.shape)[inside], others[inside]
    rows, cols = (walked, other) if along == 0 else (other, walked)
    distance = np.abs(across[0] * (rows - middle[0]) + across[1] * (cols - middle[1]) - offset)
    return (rows, cols), _soft_step(half_width - distance)


def dead_leaves(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    radius: tuple[float, float] = (3.0, 30.0),
    n_leaves: int | None = None,
) -> Maps:
    """Opaque discs fallen on each other until nothing of the ground is left (Lee, Mumford, Huang 2001).

    Radii (px) follow a density proportional to r**-3 between the bounds of `radius`, which gives the image
    statistics of natural scenes: structure at every scale.  Each disc has one value for the amplitude and one
    for the phase.  Edges are smoothed over one pixel.  `n_leaves` defaults to covering the area about four
    times over.
    """
    _check_sizes("radius", radius)
    small, large = radius
    height, breadth = shape
    mean_area = (
        np.pi * 2 * np.log(large / small) / (small**-2 - large**-2) if large > small else np.pi * small**2
    )
    area = (height + 2 * large) * (breadth + 2 * large)
    count = n_leaves if n_leaves is not None else int(np.ceil(4 * area / mean_area))
    uniform = rng.random(count)
    radii = (small**-2 - uniform * (small**-2 - large**-2)) ** -0.5
    row_at = rng.uniform(-large, height + large, count)
    col_at = rng.uniform(-large, breadth + large, count)
    values = rng.random((count, 2))
    maps = np.full((2, height, breadth), 0.5)
    for r, y, x, value in zip(radii, row_at, col_at, values, strict=True):
        top, bottom = max(0, int(y - r - 1)), min(height, int(y + r + 3))
        left, right = max(0, int(x - r - 1)), min(breadth, int(x + r + 3))
        if top >= bottom or left >= right:
            continue
        rows = np.arange(top, bottom)[:, None] - y
        cols = np.arange(left, right)[None, :] - x
        cover = _soft_step(r - np.sqrt(rows**2 + cols**2))
        patch = maps[:, top:bottom, left:right]
        patch += cover * (value[:, None, None] - patch)
    return maps[0], maps[1]


def siemens_star(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    n_spokes: int = 24,
    outer_radius: float | None = None,
    inner_radius: float | None = None,
) -> Maps:
    """A Siemens star: `n_spokes` wedges between two radii (px), turned by a random angle, plus its rim.

    The radii default to 0.48 and 0.04 of the shorter side.
    """
    if n_spokes < 1:
        raise InputError(f"siemens_star: n_spokes is {n_spokes}; expected at least 1")
    height, breadth = shape
    outer = outer_radius if outer_radius is not None else 0.48 * min(shape)
    inner = inner_radius if inner_radius is not None else 0.04 * min(shape)
    rows = np.arange(height)[:, None] - (height - 1) / 2
    cols = np.arange(breadth)[None, :] - (breadth - 1) / 2
    distance = np.hypot(rows, cols)
    turned = np.arctan2(rows, cols) * n_spokes + rng.uniform(0, 2 * np.pi)
    # The wedge's edge distance in px: angle from the edge times radius / n_spokes.
    across = np.arcsin(np.clip(np.sin(turned), -1, 1)) * distance / n_spokes
    wedges = _soft_step(across) * _soft_step(outer - distance) * _soft_step(distance - inner)
    rim = _soft_step(0.02 * outer - np.abs(distance - outer))
    star = np.maximum(wedges, rim)
    return star, star.copy()


def gaussian_random_field(
    shape: tuple[int, int], rng: np.random.Generator, *, feature_size: float = 8.0, correlation: float = 0.7
) -> Maps:
    """A smooth Gaussian random field with Gaussian correlation of standard deviation `feature_size` px.

    Amplitude and phase maps correlate by `correlation`.  Values beyond 2.5 standard deviations are clipped.
    """
    if feature_size <= 0:
        raise InputError(f"gaussian_random_field: feature_size is {feature_size}; expected a length > 0 px")
    if not -1 <= correlation <= 1:
        raise InputError(f"gaussian_random_field: correlation is {correlation}; expected -1 to 1")
    # Filtering white noise by a Gaussian of sigma s gives a field with correlation sigma s*sqrt(2).
    transfer = np.exp(
        -((np.pi * feature_size) ** 2)
        * (fft.fftfreq(shape[0])[:, None] ** 2 + fft.fftfreq(shape[1])[None, :] ** 2)
    )
    fields = fft.ifft2(fft.fft2(rng.standard_normal((2, *shape))) * transfer).real
    fields -= fields.mean(axis=(1, 2), keepdims=True)
    fields /= np.maximum(fields.std(axis=(1, 2), keepdims=True), 1e-12)
    mixed = correlation * fields[1] + np.sqrt(1 - correlation**2) * fields[0]
    first, second = (np.clip(field / 5 + 0.5, 0, 1) for field in (mixed, fields[1]))
    return first, second


def image_file(
    shape: tuple[int, int],
    rng: np.random.Generator,
    *,
    path: str | Path,
    phase_path: str | Path | None = None,
) -> Maps:
    """Maps from an image file (PNG, JPEG, TIFF, ... or a real 2-D .npy), stretched to [0, 1] and resized to
    `shape`.

    The image serves amplitude and phase alike unless `phase_path` names one of its own for the phase.  `rng`
    is not used.  MissingFileError when a file is not there, InputError when it cannot be read as a grey
    image.
    """
    first = _read_grey(Path(path), shape)
    return first, first.copy() if phase_path is None else _read_grey(Path(phase_path), shape)


def _read_grey(path: Path, shape: tuple[int, int]) -> FloatMap:
    if not path.is_file():
        raise MissingFileError(f"image {path} does not exist; give the path of a readable image file")
    try:
        if path.suffix == ".npy":
            image = np.load(path, allow_pickle=False)
        else:
            import imageio.v3 as imageio  # imported here: slow, and needed for files only

            # One named reader: without it every installed one is tried, and the error is that of the last.
            tiff = path.suffix.lower() in (".tif", ".tiff")
            image = imageio.imread(path, plugin="tifffile" if tiff else "pillow")
    except Exception as error:  # the readers raise many kinds; all mean the same to the user
        raise InputError(
            f"image {path} cannot be read ({error}); expected PNG, JPEG, TIFF or a 2-D .npy"
        ) from error
    if image.ndim == 3:
        image = image[..., :3].astype(np.float64).mean(axis=-1)  # an alpha channel says nothing of brightness
    if image.ndim != 2 or np.iscomplexobj(image) or min(image.shape) < 2:
        raise InputError(
            f"image {path} has shape {image.shape}, dtype {image.dtype}; expected one grey or colour image"
        )
    image = image.astype(np.float64)
    if not np.all(np.isfinite(image)):
        raise InputError(f"image {path} contains NaN or infinite values; replace them first")
    if image.shape != tuple(shape):
        from skimage.transform import resize

        image = resize(image, shape, order=1, anti_aliasing=True, mode="reflect")
    return _to_unit(image)


def _to_unit(values: FloatMap) -> FloatMap:
    low, high = float(values.min()), float(values.max())
    if high <= low:
        raise InputError(
            "the object came out constant; ask for more or larger features, or give another image"
        )
    return (values - low) / (high - low)


def _check_sizes(name: str, bounds: tuple[float, float]) -> None:
    if len(bounds) != 2 or not 0 < bounds[0] <= bounds[1]:
        raise InputError(
            f"{name} is {bounds}; expected (smallest, largest) in px with 0 < smallest <= largest"
        )


OBJECTS: dict[str, Generator] = {
    "dead_leaves": dead_leaves,
    "gaussian_random_field": gaussian_random_field,
    "file": image_file,
    "lines": lines,
    "siemens_star": siemens_star,
}
ALIASES = {"grf": "gaussian_random_field", "image": "file", "leaves": "dead_leaves", "star": "siemens_star"}


def make_object(
    name: str,
    shape: tuple[int, int] | int,
    seed: int,
    *,
    amplitude_range: tuple[float, float] = (0.7, 1.0),
    phase_range: tuple[float, float] = (0.0, 1.0),
    smooth: float = 0.0,
    **parameters: Any,
) -> NDArray[np.complex64]:
    """A complex object by name.

    Parameters
    ----------
    name: a key of OBJECTS (or of ALIASES).
    shape: (H, W) in px; an int stands for a square.
    seed: of the generator's own random numbers; equal seeds give equal objects.
    amplitude_range, phase_range: lower and upper bound; the phase is in rad and may span more than 2 pi.
    smooth: standard deviation (px) of a Gaussian blur of amplitude and phase; 0 = none.
    parameters: of the generator, e.g. radius=(3, 30) for dead_leaves; see the functions above.

    Returns complex64 (H, W).  InputError for an unknown name, a shape below 8 px, or impossible ranges.
    """
    key = ALIASES.get(name, name)
    if key not in OBJECTS:
        raise InputError(f"unknown object {name!r}; expected one of {', '.join(sorted(OBJECTS))}")
    size = (shape, shape) if isinstance(shape, (int, np.integer)) else tuple(int(side) for side in shape)
    if len(size) != 2 or min(size) < 8:
        raise InputError(f"object shape is {shape}; expected (H, W) with both sides at least 8 px")
    if not 0 <= amplitude_range[0] <= amplitude_range[1] or amplitude_range[1] <= 0:
        raise InputError(f"amplitude_range is {amplitude_range}; expected 0 <= low <= high, high > 0")
    if not phase_range[0] <= phase_range[1]:
        raise InputError(f"phase_range is {phase_range}; expected low <= high (rad)")
    try:
        maps = OBJECTS[key](size, np.random.default_rng(seed), **parameters)
    except TypeError as error:
        raise InputError(
            f"object {key!r} does not take these parameters {sorted(parameters)}: {error}"
        ) from error
    if smooth > 0:
        maps = (ndimage.gaussian_filter(maps[0], smooth), ndimage.gaussian_filter(maps[1], smooth))
    amplitude = amplitude_range[1] - (amplitude_range[1] - amplitude_range[0]) * maps[0]
    phase = phase_range[0] + (phase_range[1] - phase_range[0]) * maps[1]
    return np.asarray(amplitude * np.exp(1j * phase), dtype=np.complex64)
