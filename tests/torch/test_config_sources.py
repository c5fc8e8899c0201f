"""What the factories read from files: the probe's size, and the configuration of a trained model."""

import warnings
import zipfile

import numpy as np
import pytest
from small_scans import small_scan, write_scan

from ptycho import params
from ptycho.model_manager import save_archive
from ptycho_torch import config_params
from ptycho_torch.archive import save_model
from ptycho_torch.config_factory import create_inference_payload, create_training_payload, infer_probe_size
from ptycho_torch.model import PtychoPINN_Lightning


@pytest.fixture
def inference(scan_file, model_folder, tmp_path):
    """Call create_inference_payload with overrides by keyword."""

    def create(execution_config=None, model_path=model_folder, **overrides):
        return create_inference_payload(
            model_path, scan_file, tmp_path / "out", {"n_groups": 64, **overrides}, execution_config
        )

    return create


class TestProbeSizeInference:
    @pytest.mark.parametrize("shape", [(64, 64), (2, 64, 64), (64, 64, 1)])
    def test_shapes(self, tmp_path, shape):
        file = write_scan(tmp_path / "a.npz", 4, np.ones(shape, np.complex64))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert infer_probe_size(file) == 64

    def test_what_cannot_be_told(self, tmp_path):
        (tmp_path / "touched.npz").touch()
        np.savez(tmp_path / "noprobe.npz", diffraction=np.ones((2, 4, 4)))
        write_scan(tmp_path / "oblong.npz", 4, np.ones((8, 16)))
        np.savez(tmp_path / "pickle.npz", probeGuess=np.array([{"a": 1}], dtype=object))
        for name in ("missing", "touched", "noprobe", "oblong", "pickle"):
            with pytest.warns(UserWarning, match=rf"{name}\.npz.*N=64"):
                assert infer_probe_size(tmp_path / f"{name}.npz") == 64

    def test_a_touched_file_makes_a_payload(self, tmp_path):
        file = tmp_path / "touched.npz"
        file.touch()
        with pytest.warns(UserWarning, match="N=64"):
            payload = create_training_payload(file, tmp_path, {"n_groups": 4})
        assert payload.pt_data_config.N == 64 and payload.overrides_applied["sources"]["N"] == "default"

    def test_a_pickle_is_never_opened(self, tmp_path):
        file = tmp_path / "trap.npz"
        with zipfile.ZipFile(file, "w") as target:
            target.writestr("probeGuess.npy", b"cos\nsystem\n(S'touch hit'\ntR.")
        with pytest.warns(UserWarning, match="cannot be read"):
            assert infer_probe_size(file) == 64


class TestArchive:
    @pytest.fixture
    def trained(self, tmp_path):
        raw = small_scan(10)
        module = PtychoPINN_Lightning(
            config_params.ModelConfig(unet_channels=4, stages=1, C_model=4, C_forward=4),
            config_params.DataConfig(N=32, nphotons=2e7, K=5),
        )
        module.set_illumination(raw.probe, raw.probe, raw.good_pixels, 1024.0, "intensity")
        folder = tmp_path / "trained"
        folder.mkdir()
        save_model(folder / "wts.h5.zip", module, {}, {"intensity_scale": module.intensity_scale})
        return folder

    def test_architecture_and_scaling_come_from_it(self, inference, trained):
        for path in (trained, trained / "wts.h5.zip"):
            payload = inference(model_path=path)
            assert (payload.pt_data_config.N, payload.pt_data_config.C, payload.pt_data_config.K) == (32, 4, 5)
            assert payload.pt_data_config.nphotons == 2e7
            assert (payload.pt_model_config.unet_channels, payload.pt_model_config.stages) == (4, 1)
            model = payload.tf_inference_config.model
            assert (model.N, model.gridsize, model.unet_channels) == (32, 2, 4)
            assert payload.overrides_applied["sources"]["N"] == "archive"
            assert payload.overrides_applied["N"] == params.cfg["N"] == 32
            assert payload.pt_data_config.measurement_domain == "intensity"
            assert payload.overrides_applied["intensity_scale"] == 2.0, "sqrt(1024) / 16"

    def test_repeating_it_is_fine(self, inference, trained):
        payload = inference(model_path=trained, N=32, gridsize=2, unet_channels=4, amp_activation="swish", K=9)
        assert payload.pt_data_config.K == 9

    @pytest.mark.parametrize(
        ("override", "found", "stated"),
        [({"N": 64}, "N=32", "N=64"), ({"gridsize": 1}, r"grid_size=\(2, 2\)", r"grid_size=\(1, 1\)"),
         ({"unet_channels": 8}, "unet_channels=4", "unet_channels=8"),
         ({"architecture": "cnn"}, "architecture='projection_unet'", "architecture='cnn'")],
    )  # fmt: skip
    def test_a_contradiction_names_both(self, inference, trained, override, found, stated):
        with pytest.raises(ValueError, match=rf"trained with {found}.*override {stated}"):
            inference(model_path=trained, **override)

    def test_what_is_no_archive_is_refused(self, inference, model_folder):
        (model_folder / "wts.h5.zip").write_bytes(b"not a zip")
        with pytest.raises(ValueError, match="not a readable zip"):
            inference()
        save_archive(model_folder / "wts.h5.zip", {}, {"data_config": {"M": 3}}, "pytorch")
        with pytest.raises(ValueError, match="does not fit this version"):
            inference()
