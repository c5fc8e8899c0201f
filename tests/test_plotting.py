"""Pictures: what is drawn, with which units, and in colours that can be told apart."""

import io

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from runs import made_up_halves, made_up_outcome, small_scan

from ptycho import plotting
from ptycho.placed import compare_placed, place_outcome, place_truth
from ptycho.plotting import probes, style


@pytest.fixture(scope="module")
def scan():
    return small_scan(pixel_size_m=2e-8)


@pytest.fixture
def outcome(scan):
    return made_up_outcome(scan)


def drawn(figure):
    """The pixels of a figure, (rows, columns, 3)."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(int)


def texts(figure):
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def test_flat_phase_takes_plane_and_constant_away():
    rows, cols = np.indices((40, 50))
    # Even about the middle on both axes, so that its own least-squares plane is level.
    structure = 0.2 * np.cos((rows - 19.5) * 0.6) * np.cos((cols - 24.5) * 0.5)
    image = np.exp(1j * (structure + 1.0 + 0.35 * rows - 0.5 * cols))
    phase = plotting.flat_phase(image, np.ones((40, 50), dtype=bool))
    np.testing.assert_allclose(phase - phase.mean(), structure - structure.mean(), atol=1e-3)


def test_pictures_are_cut_to_what_was_seen():
    seen = np.zeros((60, 80), dtype=bool)
    seen[10:30, 20:60] = True
    figure = plotting.amplitude_figure(np.ones((60, 80), np.complex64), seen)
    assert figure.axes[0].images[0].get_array().shape == (20, 40)


def test_a_large_canvas_is_thinned_before_it_is_drawn():
    """And the scale bar is as long as it was."""
    side = 2 * style.MOST_PX + 6
    image, seen = np.ones((side, side // 2), np.complex64), np.ones((side, side // 2), bool)
    image[3, 6] = 5.0  # on the rows and columns that are left
    image[4, 7] = 9.0  # off them
    figure = plotting.amplitude_figure(image, seen)
    shown = figure.axes[0].images[0].get_array()
    assert shown.shape == (-(-side // 3), -(-(side // 2) // 3))
    assert shown[1, 2] == 5.0 and shown.max() == 5.0
    bar = figure.findobj(lambda artist: isinstance(artist, Rectangle) and artist.get_facecolor() == (0, 0, 0, 1))
    assert "200 px" in texts(figure) and bar[0].get_width() == pytest.approx(200 / 3)


@pytest.mark.parametrize(
    ("length", "nice"), [(1.0, 1.0), (1.9, 1.0), (2.0, 2.0), (7.3, 5.0), (49.0, 20.0), (3.1e-7, 2e-7)]
)
def test_scale_bar_lengths(length, nice):
    assert style.nice_length(length) == pytest.approx(nice)


def test_the_scale_bar_is_as_long_as_it_says(scan, outcome):
    """In the pixels of the picture, measured as the longest run of black."""
    seen = np.ones((200, 200), bool)
    figure = plotting.amplitude_figure(np.full((200, 200), 2.0, np.complex64), seen, 2e-8)
    black = (drawn(figure) < 30).all(axis=-1)
    image = figure.axes[0].get_window_extent()
    top = len(black) - round(image.y1)
    inside = black[top + 5 : top + round(image.height) - 5, round(image.x0) + 5 : round(image.x1) - 5]
    longest = max(
        max((len(run) for run in "".join("x" if v else " " for v in row).split()), default=0) for row in inside
    )
    (label,) = {text for text in texts(figure) if "mu" in text}
    length_m = float(label.split()[0]) * 1e-6
    assert longest == pytest.approx(length_m / 2e-8 * image.width / 200, abs=2)


def test_labels_carry_units(scan, outcome):
    seen = outcome.coverage > 0
    found = [t for pixel in (None, 2e-8) for t in texts(plotting.phase_figure(outcome.result.object, seen, pixel))]
    assert any("rad" in t for t in found) and any(t.endswith(" px") for t in found)
    assert any(t.endswith(" nm") or "mu" in t for t in found)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_pictures_of_constant_images_and_single_modes(value):
    image = np.full((8, 9), value, dtype=np.complex64)
    nothing = np.zeros((8, 9), dtype=bool)
    for figure in (
        plotting.amplitude_figure(image, nothing),
        plotting.phase_figure(image, ~nothing),
        plotting.coverage_figure(nothing.astype(int)),
        plotting.probe_figure(image[None, :8, :8]),
        plotting.stages_figure({"one": image, "two": image}, ~nothing),
        plotting.residual_figure(np.full((8, 8), np.nan if value else 0.0)),
        plotting.positions_figure(np.full(3, value), np.zeros(3), np.full(3, value)),
        plotting.losses_figure({"train": [value], "val": [None]}),
    ):
        pixels = drawn(figure)
        assert pixels.min() < pixels.max(), "something is drawn"


# ---------------------------------------------------------------------- colours


def lightness(colours):
    """CIE L* of sRGB colours (..., 3)."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return 116 * np.cbrt(luminance) - 16


def test_hues_of_all_phases_are_equally_light_and_evenly_spaced():
    colours = plotting.hue_circle(np.linspace(-np.pi, np.pi, 361))
    assert colours.min() > 0 and colours.max() < 1, "all are colours of a screen"
    np.testing.assert_allclose(colours[0], colours[-1], atol=1e-12)
    assert np.ptp(lightness(colours)) < 6
    steps = np.linalg.norm(np.diff(colours, axis=0), axis=1)
    assert steps.max() < 4 * steps.min()


def test_opposite_phases_differ_without_red_and_green():
    """Blue against yellow is seen by people who cannot tell red from green: 0 and pi differ in blue most."""
    zero, half = plotting.hue_circle(np.array([0.0, np.pi]))
    assert zero[2] - half[2] > 0.5


def test_a_wrapped_phase_is_cyclic_and_a_small_one_is_not():
    rows, cols = np.indices((40, 40)) / 40
    seen = np.ones((40, 40), bool)
    for depth, colours in ((0.5, style.PHASE_MAP), (3.0, style.CYCLIC_MAP)):
        image = np.exp(1j * depth * np.sin(9 * rows) * np.sin(7 * cols)).astype(np.complex64)
        figure = plotting.phase_figure(image, seen)
        assert figure.axes[0].images[0].cmap.name == colours
    assert r"$\pi/2$" in texts(figure)


def test_the_cyclic_map_closes():
    from matplotlib import colormaps

    ends = colormaps[style.CYCLIC_MAP]([0.0, 1.0])
    np.testing.assert_allclose(ends[0], ends[1], atol=0.02)


def test_signed_residuals_are_white_at_zero_and_alike_on_both_sides():
    residual = np.zeros((16, 16))
    residual[0], residual[1], residual[5, 5] = 2.0, -2.0, np.nan
    figure = plotting.residual_figure(residual)
    (image,) = figure.axes[0].images
    assert image.norm.vmin == -image.norm.vmax
    assert image.get_array().mask.sum() == 1
    assert min(image.cmap(image.norm(0.0))[:3]) > 0.95


# ---------------------------------------------------------------------- what is where


def test_probe_modes_are_told_with_their_power():
    mode = np.ones((16, 16), np.complex64)
    found = texts(plotting.probe_figure(np.stack([mode, 0.5j * mode])))
    assert "mode 1: 80.0 % of power" in found and "mode 2: 20.0 % of power" in found


@pytest.mark.parametrize("n_modes", [1, 2, 6, 9])
def test_every_mode_has_a_hue_and_a_phase(n_modes):
    modes = np.ones((n_modes, 8, 8), np.complex64)
    figure = plotting.probe_figure(modes)
    shown = [axes for axes in figure.axes if axes.images and axes.images[0].get_array().shape[:2] == (8, 8)]
    assert len(shown) == 2 * min(n_modes, 6)
    left_out = [t for t in texts(figure) if "not shown" in t]
    assert len(left_out) == (n_modes > 6)


def test_the_constant_phase_of_a_mode_does_not_change_its_picture(scan):
    field = scan.probe[0] * np.linspace(-1, 1, scan.N)  # odd: its sum is zero
    turned = [probes._levelled(field * np.exp(1j * angle)) for angle in (0.0, 1.0, 2.5)]
    for other in turned[1:]:
        assert min(np.abs(other - turned[0]).max(), np.abs(other + turned[0]).max()) < 1e-4


def test_positions_lie_where_the_frames_are(scan):
    deviance = np.arange(scan.n_frames, dtype=np.float32)
    figure = plotting.positions_figure(scan.xcoords, scan.ycoords, deviance, 2e-8)
    axes = figure.axes[0]
    (dots,) = axes.collections
    middle = [(v.min() + v.max()) / 2 for v in (scan.xcoords, scan.ycoords)]
    expected = (np.stack([scan.xcoords, scan.ycoords], 1) - middle) * 2e-2  # micrometres
    np.testing.assert_allclose(dots.get_offsets(), expected, atol=1e-9)
    np.testing.assert_array_equal(dots.get_array(), deviance)
    assert axes.yaxis_inverted() and not axes.xaxis_inverted(), "rows go down, as in the pictures of the object"
    assert any("mu" in t for t in texts(figure))


@pytest.mark.parametrize(("dx", "dy"), [(1.0, 0.0), (0.0, 1.0), (100.0, 1.0)])
def test_positions_on_a_line(dx, dy):
    steps = np.arange(50.0)
    figure = plotting.positions_figure(dx * steps, dy * steps, steps)
    assert 1 < figure.get_figwidth() < 12 and 1 < figure.get_figheight() < 12
    assert drawn(figure).min() < 255


def test_stages_share_their_scales(scan, outcome):
    images = {name: stage.object for name, stage in outcome.stages.items()}
    figure = plotting.stages_figure(images, outcome.coverage > 0, 2e-8)
    pictures = [axes.images[0] for axes in figure.axes if axes.images][:4]
    assert pictures[0].get_clim() == pictures[1].get_clim() and pictures[2].get_clim() == pictures[3].get_clim()
    assert {"projection", "network"} <= set(texts(figure))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_comparisons_of_any_number_of_stages(scan, outcome, number):
    _, pair = compare_placed(place_outcome(outcome, "network"), place_truth(scan))
    figure = plotting.comparison_figure({f"stage {i}": pair for i in range(number)}, reference_title="truth")
    found = texts(figure)
    assert {"truth", *(f"stage {i}" for i in range(number))} <= set(found)
    lines = [line.get_label() for axes in figure.axes for line in axes.lines]
    assert lines == [*(f"stage {i}" for i in range(number)), "half-bit threshold"]


def test_curves_of_halves_say_where_they_end():
    curves = {name: figures.frc for name, figures in made_up_halves().stages.items()}
    figure = plotting.halves_figure(curves, 2e-8)
    axes = figure.axes[0]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    # half periods of 1 / (2 * 0.2) and 1 / (2 * 0.4) px of 20 nm
    assert labels == ["projection: 2.50 px (50 nm)", "network: 1.25 px (25 nm)", "half-bit threshold"]
    dots = [line.get_xydata()[0] for line in axes.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots, [(0.2, 0.2), (0.4, 0.2)], atol=1e-9)
    assert "cycles / px" in axes.get_xlabel()
    assert plotting.halves_figure(curves).axes[0].get_legend().get_texts()[0].get_text() == "projection: 2.50 px"


def test_losses_are_drawn_epoch_by_epoch():
    figure = plotting.losses_figure({"train": [8.0, 2.0, 1.0], "val": [9.0, None, float("nan")]})
    axes = figure.axes[0]
    train, val = axes.lines
    np.testing.assert_array_equal(train.get_xydata(), [(1, 8), (2, 2), (3, 1)])
    assert val.get_ydata()[0] == 9 and np.isnan(val.get_ydata()[1:]).all()
    assert axes.get_yscale() == "log" and axes.get_xlabel() == "epoch"
    assert train.get_linestyle() != val.get_linestyle(), "told apart without colour"
    assert plotting.losses_figure({"train": [1.1, 1.0]}).axes[0].get_yscale() == "linear"


def test_pictures_are_files_of_moderate_size(scan, outcome):
    data = io.BytesIO()
    plotting.phase_figure(outcome.result.object, outcome.coverage > 0, 2e-8).savefig(data, format="png")
    assert data.getvalue()[:4] == b"\x89PNG" and len(data.getvalue()) < 500_000


def test_intervals_are_drawn_from_zero_with_their_unit():
    half_width = np.linspace(0.1, 0.4, 900, dtype=np.float32).reshape(30, 30)
    half_width[:5] = np.nan
    figure = plotting.interval_figure(half_width)
    low, high = figure.axes[0].images[0].get_clim()
    assert low == 0 and 0.35 < high <= 0.4001
    assert figure.axes[0].images[0].get_array().shape == (25, 30), "cut to what has an interval"
    assert any("rad" in text for text in texts(figure))
