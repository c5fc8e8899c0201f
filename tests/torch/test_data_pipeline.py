"""Scans and groups under the names of the reference: RawDataTorch, MemmapDatasetBridge, containers."""

import os
import pickle

import numpy as np
import pytest
import torch

from ptycho import params
from ptycho.config.config import InferenceConfig, ModelConfig, TrainingConfig
from ptycho.errors import InputError, MissingFileError
from ptycho.io import npz as npz_module
from ptycho.raw_data import RawData
from ptycho_torch.data_container_bridge import PtychoDataContainerTorch
from ptycho_torch.memmap_bridge import MemmapDatasetBridge
from ptycho_torch.raw_data_bridge import RawDataTorch

M, N = 20, 64
GROUPING = {"K": 7, "nsamples": 10, "gridsize": 2, "seed": 42}
SAME = (
    "diffraction",
    "X_full",
    "Y",
    "coords_offsets",
    "coords_relative",
    "coords_nn",
    "coords_start_relative",
    "nn_indices",
    "objectGuess",
)


@pytest.fixture(scope="module")
def arrays():
    """A scan of counts; frame i has the value 500 + i at (0, 0)."""
    rng = np.random.default_rng(1)
    frames = rng.poisson(5.0, (M, N, N)).astype(np.float32)
    frames[:, 0, 0] = 500 + np.arange(M)
    return {
        "xcoords": rng.uniform(0, 40, M),
        "ycoords": rng.uniform(0, 40, M),
        "diff3d": frames,
        "probeGuess": (rng.normal(size=(N, N)) + 1j * rng.normal(size=(N, N))).astype(np.complex64),
        "scan_index": np.arange(M),
    }


@pytest.fixture
def config():
    return TrainingConfig(ModelConfig(N=N, gridsize=2), n_groups=10, neighbor_count=7, nphotons=3e7)


@pytest.fixture
def raw(arrays):
    return RawData.from_coords_without_pc(**arrays)


@pytest.fixture
def image():
    rows, cols = np.mgrid[:110, :120]
    return (1 + 0.1 * np.sin(rows / 9) + 0.2j * np.cos(cols / 7)).astype(np.complex64)


def assert_same_groups(found, expected):
    assert found.keys() == expected.keys()
    for key in SAME:
        if expected[key] is None:
            assert found[key] is None
        else:
            assert found[key].dtype == expected[key].dtype
            np.testing.assert_array_equal(found[key], expected[key])


class TestRawDataTorch:
    def test_the_same_groups_as_raw_data(self, arrays, config):
        ours = RawDataTorch(**arrays, config=config).generate_grouped_data(N, **GROUPING)
        assert ours["diffraction"].shape == ours["X_full"].shape == (10, N, N, 4)
        assert ours["diffraction"].dtype == ours["X_full"].dtype == np.float32
        assert ours["coords_offsets"].shape == (10, 1, 2, 1) and ours["coords_relative"].shape == (10, 1, 2, 4)
        assert ours["nn_indices"].shape == (10, 4)
        np.testing.assert_array_equal(ours["diffraction"][:, 0, 0] - 500, ours["nn_indices"])
        assert_same_groups(ours, RawData.from_coords_without_pc(**arrays).generate_grouped_data(N, **GROUPING))

    def test_the_sign_of_relative_coordinates(self, arrays):
        grouped = RawDataTorch(**arrays).generate_grouped_data(N, **GROUPING)
        for b, group in enumerate(grouped["nn_indices"]):
            x, y = arrays["xcoords"][group], arrays["ycoords"][group]
            np.testing.assert_allclose(grouped["coords_relative"][b, 0], [x.mean() - x, y.mean() - y], atol=1e-12)

    def test_a_config_fills_the_legacy_dictionary(self, arrays, config):
        params.cfg.clear()
        scan = RawDataTorch(**arrays, config=config)
        assert (params.cfg["N"], params.cfg["gridsize"], params.cfg["nphotons"]) == (N, 2, 3e7)
        assert params.cfg["n_groups"] == 10 and params.cfg["model_type"] == "pinn"
        grouped = scan.generate_grouped_data(N, K=7, nsamples=3)  # and nothing more is needed for groups
        assert grouped["nn_indices"].shape == (3, 4)

    def test_without_a_config_the_legacy_dictionary_is_read_and_not_written(self, arrays):
        before = dict(params.cfg)
        scan = RawDataTorch(**arrays)
        assert before == params.cfg and scan.config is None
        for gridsize in (1, 2):
            params.cfg["gridsize"] = gridsize
            assert scan.generate_grouped_data(N, K=7, nsamples=3)["nn_indices"].shape == (3, gridsize**2)

    def test_its_own_gridsize_wins_over_what_others_wrote(self, arrays, config):
        scan = RawDataTorch(**arrays, config=config)
        params.cfg["gridsize"] = 1
        assert scan.generate_grouped_data(N, K=7, nsamples=3)["nn_indices"].shape == (3, 4)

    def test_arrays_can_be_read_and_not_replaced(self, arrays, image):
        scan = RawDataTorch(**arrays, objectGuess=image)
        for name in ("xcoords", "ycoords", "diff3d", "probeGuess", "scan_index", "objectGuess"):
            expected = image if name == "objectGuess" else arrays[name]
            np.testing.assert_array_equal(getattr(scan, name), expected)
            with pytest.raises(AttributeError):
                setattr(scan, name, expected)
        np.testing.assert_array_equal(scan.xcoords_start, arrays["xcoords"])
        np.testing.assert_array_equal(scan.ycoords_start, arrays["ycoords"])
        assert scan.Y is None and isinstance(scan.raw, RawData)

    def test_positional_arguments_in_the_order_of_the_reference(self, arrays, image, config):
        order = ("xcoords", "ycoords", "diff3d", "probeGuess", "scan_index")
        scan = RawDataTorch(*(arrays[name] for name in order), image, config)
        assert scan.config is config and scan.objectGuess.shape == image.shape
        grouped = scan.generate_grouped_data(N, 7, 5, 3, True, 1, None)
        np.testing.assert_array_equal(grouped["nn_indices"], np.arange(5)[:, None])

    def test_oversampling(self, arrays):
        scan = RawDataTorch(**arrays)
        with pytest.raises(ValueError, match="OVERSAMPLING-001"):
            scan.generate_grouped_data(N, K=7, nsamples=50, gridsize=2)
        options = {"nsamples": 50, "gridsize": 2, "seed": 1, "enable_oversampling": True, "neighbor_pool_size": 6}
        grouped = scan.generate_grouped_data(N, K=4, **options)
        assert grouped["nn_indices"].shape == (50, 4)
        assert_same_groups(grouped, scan.raw.generate_grouped_data(N, K=4, **options))

    def test_wrapping_keeps_what_the_arrays_do_not_say(self, raw, config):
        raw.Y = np.ones((M, N, N), np.complex64)
        scan = RawDataTorch.of_raw(raw, config)
        assert scan.raw is raw and scan.Y is raw.Y and scan.config is config
        assert params.cfg["gridsize"] == 2

    def test_the_configuration_may_state_the_domain(self, arrays, config):
        config.measurement_domain = "amplitude"
        assert RawDataTorch(**arrays, config=config).raw.measurement_domain == "amplitude"
        assert RawDataTorch(**arrays).raw.measurement_domain == "intensity"

    def test_mistakes_are_those_of_raw_data(self, arrays):
        with pytest.raises(InputError, match="one position per frame"):
            RawDataTorch(**{**arrays, "diff3d": arrays["diff3d"][:5]})


class TestMemmapDatasetBridge:
    @pytest.mark.parametrize("key", ["diffraction", "diff3d"])
    def test_the_same_groups_as_from_arrays(self, tmp_path, arrays, config, image, key):
        stored = {key if name == "diff3d" else name: value for name, value in arrays.items()}
        np.savez(tmp_path / "scan.npz", **stored, objectGuess=image)
        bridge = MemmapDatasetBridge(npz_path=tmp_path / "scan.npz", config=config, memmap_dir=tmp_path / "map")
        from_arrays = RawDataTorch(**arrays, objectGuess=image, config=config)
        expected = from_arrays.generate_grouped_data(N, **GROUPING)
        assert expected["Y"].shape == (10, N, N, 4)
        assert_same_groups(bridge.get_grouped_data(N, **GROUPING), expected)
        assert isinstance(bridge.raw_data_torch, RawDataTorch) and bridge.raw is bridge.raw_data_torch.raw

    def test_the_seed_decides(self, tmp_path, arrays, config):
        np.savez(tmp_path / "scan.npz", **arrays)

        def indices(seed):
            bridge = MemmapDatasetBridge(npz_path=str(tmp_path / "scan.npz"), config=config)
            return bridge.get_grouped_data(N=N, K=7, nsamples=10, gridsize=2, seed=seed)["nn_indices"]

        np.testing.assert_array_equal(indices(42), indices(42))
        assert not np.array_equal(indices(42), indices(123))

    def test_nothing_is_written(self, tmp_path, arrays, config, monkeypatch):
        np.savez(tmp_path / "scan.npz", **arrays)
        work = tmp_path / "work"
        work.mkdir()
        monkeypatch.chdir(work)
        bridge = MemmapDatasetBridge(npz_path=tmp_path / "scan.npz", config=config, memmap_dir="data/map")
        assert bridge.get_grouped_data(N, **GROUPING)["nn_indices"].shape == (10, 4)
        assert os.listdir(work) == [] and os.listdir(tmp_path) == ["scan.npz", "work"]

    def test_large_frames_are_mapped_from_the_file(self, tmp_path, arrays, config, monkeypatch):
        np.savez(tmp_path / "scan.npz", **arrays)
        monkeypatch.setattr(npz_module, "_MAP_BYTES", 1000)
        bridge = MemmapDatasetBridge(npz_path=tmp_path / "scan.npz", config=config)
        assert isinstance(bridge.raw.diff3d, np.memmap)
        expected = RawDataTorch(**arrays).generate_grouped_data(N, **GROUPING)
        assert_same_groups(bridge.get_grouped_data(N, **GROUPING), expected)

    def test_the_configuration_counts(self, tmp_path, arrays, config):
        np.savez(tmp_path / "scan.npz", **arrays)
        config.measurement_domain = "amplitude"
        bridge = MemmapDatasetBridge(npz_path=tmp_path / "scan.npz", config=config)
        assert params.cfg["gridsize"] == 2 and bridge.raw.measurement_domain == "amplitude"
        assert bridge.get_grouped_data(N, K=7, nsamples=3)["nn_indices"].shape == (3, 4)

    def test_a_missing_file(self, tmp_path, config):
        with pytest.raises(MissingFileError, match=r"none\.npz"):
            MemmapDatasetBridge(npz_path=tmp_path / "none.npz", config=config)


class TestContainerOfGroups:
    @pytest.fixture
    def grouped(self, raw, image):
        raw.objectGuess = image
        return raw.generate_grouped_data(N, **GROUPING)

    def test_attributes(self, raw, grouped, arrays, image):
        container = PtychoDataContainerTorch(grouped, arrays["probeGuess"])
        expected = {
            "X": ((10, N, N, 4), torch.float32),
            "Y": ((10, N, N, 4), torch.complex64),
            "Y_I": ((10, N, N, 4), torch.float32),
            "Y_phi": ((10, N, N, 4), torch.float32),
            "coords_nominal": ((10, 1, 2, 4), torch.float32),
            "coords_true": ((10, 1, 2, 4), torch.float32),
            "coords_relative": ((10, 1, 2, 4), torch.float32),
            "coords": ((10, 1, 2, 4), torch.float32),
            "probe": ((N, N), torch.complex64),
            "nn_indices": ((10, 4), torch.int32),
            "global_offsets": ((10, 1, 2, 1), torch.float64),
            "local_offsets": ((10, 1, 2, 4), torch.float64),
            "YY_full": (image.shape, torch.complex64),
        }
        found = {name: (tuple(getattr(container, name).shape), getattr(container, name).dtype) for name in expected}
        assert found == expected
        assert len(container) == 10 and container.scan is raw and container.has_labels
        assert container.norm_Y_I == 1.0

    def test_values_are_those_given(self, grouped, arrays):
        container = PtychoDataContainerTorch(grouped, arrays["probeGuess"])
        pairs = {"X": "X_full", "Y": "Y", "local_offsets": "coords_relative", "global_offsets": "coords_offsets",
                 "nn_indices": "nn_indices", "YY_full": "objectGuess"}  # fmt: skip
        for name, key in pairs.items():
            np.testing.assert_array_equal(getattr(container, name).numpy(), grouped[key])
        np.testing.assert_array_equal(container.probe.numpy(), arrays["probeGuess"])
        np.testing.assert_allclose(container.Y_I.numpy(), np.abs(grouped["Y"]), rtol=1e-6)
        np.testing.assert_allclose(container.Y_phi.numpy(), np.angle(grouped["Y"]), atol=1e-6)

    def test_relative_coordinates_keep_their_sign(self, grouped, arrays):
        given = grouped["coords_relative"].copy()
        container = PtychoDataContainerTorch(grouped, arrays["probeGuess"])
        for name in ("coords_nominal", "coords_relative", "coords_true", "coords"):
            np.testing.assert_array_equal(getattr(container, name).numpy(), given.astype(np.float32))

    def test_without_labels(self, grouped, arrays):
        container = PtychoDataContainerTorch({**grouped, "Y": None}, arrays["probeGuess"])
        assert not container.has_labels
        assert container.Y.shape == container.X.shape and container.Y.dtype == torch.complex64
        assert (container.Y == 1).all() and (container.Y_I == 1).all() and (container.Y_phi == 0).all()
        assert container.Y.untyped_storage().nbytes() == 8  # one number
        del grouped["Y"], grouped["objectGuess"]
        assert PtychoDataContainerTorch(grouped, arrays["probeGuess"]).YY_full is None

    @pytest.mark.parametrize("shape", [(N, N), (N, N, 1), (1, N, N), (3, N, N)])
    def test_probes(self, grouped, shape):
        probe = np.random.default_rng(0).normal(size=shape)  # real: it is cast
        container = PtychoDataContainerTorch(grouped, probe)
        modes = 3 if shape[0] == 3 else 1
        assert container.probe.dtype == torch.complex64
        np.testing.assert_allclose(container.probe.real.reshape(modes, N, N), probe.reshape(modes, N, N), rtol=1e-6)
        assert container.probe.ndim == (3 if modes == 3 else 2)

    def test_missing_keys_are_listed(self, grouped, arrays):
        del grouped["coords_offsets"], grouped["nn_indices"]
        with pytest.raises(ValueError, match="missing: coords_offsets, nn_indices"):
            PtychoDataContainerTorch(grouped, arrays["probeGuess"])

    def test_frames_of_another_dtype(self, grouped, arrays):
        grouped["X_full"] = grouped["X_full"].astype(np.float64)
        with pytest.raises(TypeError, match=r"X_full: found dtype float64, expected float32"):
            PtychoDataContainerTorch(grouped, arrays["probeGuess"])
        with pytest.raises(InputError):  # the command line shows it without a traceback
            PtychoDataContainerTorch(grouped, arrays["probeGuess"])

    @pytest.mark.parametrize("dtype", [np.complex128, np.float32])
    def test_labels_of_another_dtype(self, grouped, arrays, dtype):
        grouped["Y"] = np.ones((10, N, N, 4), dtype)
        with pytest.raises(ValueError, match="complex64.*DATA-001"):
            PtychoDataContainerTorch(grouped, arrays["probeGuess"])

    @pytest.mark.parametrize("key", ["coords_relative", "coords_offsets", "nn_indices", "Y"])
    def test_arrays_of_different_groupings(self, grouped, arrays, key):
        grouped[key] = grouped[key][:7]
        with pytest.raises(InputError, match=f"{key}: found shape.*expected 10 groups"):
            PtychoDataContainerTorch(grouped, arrays["probeGuess"])

    def test_shapes_that_are_none(self, grouped, arrays):
        with pytest.raises(InputError, match="X_full: found shape"):
            PtychoDataContainerTorch({**grouped, "X_full": grouped["X_full"][..., 0]}, arrays["probeGuess"])
        with pytest.raises(InputError, match="probe"):
            PtychoDataContainerTorch(grouped, np.ones((3, 4)))

    def test_tensors_and_read_only_arrays_are_accepted(self, grouped, arrays, recwarn):
        grouped["X_full"] = torch.from_numpy(grouped["X_full"])
        grouped["Y"].flags.writeable = False
        container = PtychoDataContainerTorch(grouped, torch.from_numpy(arrays["probeGuess"]))
        container.Y[0] = 0  # a copy
        assert grouped["Y"][0].any()
        assert container.X.data_ptr() == grouped["X_full"].data_ptr()  # no copy
        assert not recwarn.list

    def test_it_can_be_sent_to_another_process(self, grouped, arrays):
        container = pickle.loads(pickle.dumps(PtychoDataContainerTorch(grouped, arrays["probeGuess"])))
        np.testing.assert_array_equal(container.X.numpy(), grouped["X_full"])


class TestContainerOfScan:
    @pytest.fixture
    def calls(self, monkeypatch):
        """The arguments of every grouping."""
        seen = []
        original = RawData.generate_grouped_data

        def counted(self, *args, **kwargs):
            seen.append(kwargs)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(RawData, "generate_grouped_data", counted)
        return seen

    def test_groups_are_made_when_one_is_read(self, raw, config, calls):
        container = PtychoDataContainerTorch.of_scan(raw, config)
        assert container.scan is raw and len(container) == 10
        assert container.probe.shape == (N, N) and not container.has_labels
        assert "10 groups of RawData" in repr(container)
        assert not hasattr(container, "physics_scaling_constant")
        assert calls == []
        assert container.X.shape == (10, N, N, 4)
        for name in ("Y", "coords_relative", "global_offsets", "nn_indices", "X"):
            assert getattr(container, name) is not None
        assert len(calls) == 1 and len(container) == 10

    def test_frames_keep_their_dtype_until_then(self, arrays, config):
        raw = RawData.from_coords_without_pc(**{**arrays, "diff3d": arrays["diff3d"].astype(np.uint16)})
        container = PtychoDataContainerTorch.of_scan(raw, config)
        assert container.scan.diff3d is raw.diff3d and raw.diff3d.dtype == np.uint16
        assert not any(isinstance(value, torch.Tensor) and value.ndim > 2 for value in vars(container).values())

    def test_the_groups_are_those_of_the_configuration(self, raw, config):
        config.subsample_seed = 42
        container = PtychoDataContainerTorch.of_scan(raw, config)
        expected = raw.generate_grouped_data(N, **GROUPING)
        np.testing.assert_array_equal(container.nn_indices.numpy(), expected["nn_indices"])
        np.testing.assert_array_equal(container.X.numpy(), expected["X_full"])
        np.testing.assert_array_equal(container.coords_nominal.numpy(), expected["coords_relative"].astype(np.float32))

    def test_arguments(self, raw, calls):
        model = ModelConfig(N=N, gridsize=2)
        config = TrainingConfig(
            model, n_groups=50, neighbor_count=5, subsample_seed=9, sequential_sampling=True, enable_oversampling=True,
            neighbor_pool_size=6,
        )  # fmt: skip
        container = PtychoDataContainerTorch.of_scan(raw, config)
        assert len(container) == 50
        config.neighbor_count = config.n_groups = 1  # too late
        assert container.X.shape[0] == 50
        assert calls == [
            {
                "N": N, "K": 5, "nsamples": 50, "seed": 9, "sequential_sampling": True, "gridsize": 2,
                "enable_oversampling": True, "neighbor_pool_size": 6,
            }
        ]  # fmt: skip

    @pytest.mark.parametrize(("gridsize", "n_groups", "groups"), [(1, None, M), (2, None, M), (1, 99, M), (1, 3, 3)])
    def test_number_of_groups(self, raw, tmp_path, gridsize, n_groups, groups):
        config = InferenceConfig(ModelConfig(N=N, gridsize=gridsize), tmp_path, tmp_path, n_groups=n_groups)
        container = PtychoDataContainerTorch.of_scan(raw, config)
        assert len(container) == groups
        assert container.X.shape == (groups, N, N, gridsize**2) and len(container) == groups
        again = PtychoDataContainerTorch.of_scan(raw, config)  # no seed is seed 0
        assert torch.equal(again.nn_indices, container.nn_indices)

    def test_what_a_caller_sets_stays(self, raw, config):
        container = PtychoDataContainerTorch.of_scan(raw, config)
        container.physics_scaling_constant = torch.ones(1, 1, 1)
        container.nn_indices = "mine"
        assert container.X.shape[0] == 10
        assert container.nn_indices == "mine" and container.physics_scaling_constant.shape == (1, 1, 1)

    def test_labels(self, raw, config, image):
        raw.objectGuess = image
        container = PtychoDataContainerTorch.of_scan(raw, config)
        assert container.has_labels
        assert container.Y.std() > 0 and container.YY_full.shape == image.shape

    def test_several_modes(self, arrays, config):
        raw = RawData.from_coords_without_pc(**{**arrays, "probeGuess": np.ones((2, N, N), np.complex64)})
        assert PtychoDataContainerTorch.of_scan(raw, config).probe.shape == (2, N, N)

    def test_frames_of_another_size(self, raw, config):
        config.model.N = 128
        with pytest.raises(InputError, match=r"64 x 64.*N = 128"):
            PtychoDataContainerTorch.of_scan(raw, config)

    def test_no_probe(self, arrays, config):
        raw = RawData.from_coords_without_pc(**{**arrays, "probeGuess": None})
        with pytest.raises(InputError, match="no probe"):
            PtychoDataContainerTorch.of_scan(raw, config)

    def test_what_cannot_be_grouped_is_an_error_when_it_is_read(self, raw, config):
        config.neighbor_count = 3
        container = PtychoDataContainerTorch.of_scan(raw, config)
        with pytest.raises(InputError, match="K=3 must be >= C=4"):
            _ = container.X

    def test_it_can_be_sent_to_another_process(self, raw, config):
        container = PtychoDataContainerTorch.of_scan(raw, config)
        other = pickle.loads(pickle.dumps(container))
        assert len(other) == 10 and torch.equal(other.nn_indices, container.nn_indices)
