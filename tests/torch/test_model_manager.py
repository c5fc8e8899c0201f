"""Bundles: what is written, what is read back, and what is refused."""

import json
import zipfile

import h5py
import numpy as np
import pytest
import torch
from small_scans import small_scan

from ptycho import params
from ptycho.config.config import ModelConfig, TrainingConfig
from ptycho.errors import InputError, MissingFileError
from ptycho.model_manager import load_archive, save_archive
from ptycho.workflows import components as neutral
from ptycho_torch.config_params import DataConfig
from ptycho_torch.config_params import ModelConfig as TorchModelConfig
from ptycho_torch.model import PtychoPINN_Lightning
from ptycho_torch.model_manager import create_torch_model_with_gridsize, load_torch_bundle, save_torch_bundle


@pytest.fixture(scope="module")
def raw():
    return small_scan(20)


def fresh(raw, **model):
    torch.manual_seed(1)
    small = TorchModelConfig(unet_channels=4, stages=1, projection_steps=10, **model)
    module = PtychoPINN_Lightning(small, DataConfig(N=32, nphotons=1e9))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    module.set_illumination(
        raw.probe, 0.5 * raw.probe, raw.good_pixels, raw.mean_counts_per_frame(), raw.measurement_domain
    )
    return module.eval()


@pytest.fixture
def bundle(raw, tmp_path):
    module = fresh(raw)
    config = TrainingConfig(ModelConfig(N=32, gridsize=2), nphotons=1e9, output_dir=tmp_path)
    save_torch_bundle({"autoencoder": module.generator, "diffraction_to_obj": module}, tmp_path / "wts.h5", config)
    return module, tmp_path / "wts.h5.zip"


def test_what_a_bundle_holds(bundle, raw):
    _, file = bundle
    with zipfile.ZipFile(file) as archive:
        assert sorted(archive.namelist()) == ["config.json", "manifest.json", "weights.h5"]
        manifest = json.loads(archive.read("manifest.json"))
        config = json.loads(archive.read("config.json"))
        with archive.open("weights.h5") as stream, h5py.File(stream, "r") as weights:
            probe = weights["diffraction_to_obj/probe_parts"][...]
            assert set(weights) == {"autoencoder", "diffraction_to_obj"}
    assert manifest["backend"] == "pytorch" and manifest["models"] == ["autoencoder", "diffraction_to_obj"]
    assert {"ptychopinn", "torch", "numpy", "python"} <= set(manifest["versions"])
    assert set(manifest["sha256"]) == {"config.json", "weights.h5"}
    assert {"model_config", "data_config", "training_config", "inference_config", "settings", "legacy"} == set(config)
    assert config["settings"]["measurement_domain"] == "intensity"
    assert config["legacy"]["intensity_scale"] == pytest.approx(np.sqrt(raw.mean_counts_per_frame()) / 16)
    np.testing.assert_array_equal(probe[..., 0] + 1j * probe[..., 1], raw.probe)


def test_it_comes_back_to_the_bit(bundle):
    module, file = bundle
    params.cfg.clear()
    for path in (file.parent / "wts.h5", file.parent, file):
        models, restored = load_torch_bundle(path)
        assert set(models) == {"autoencoder", "diffraction_to_obj"} and models["autoencoder"] is not None
        loaded = models["diffraction_to_obj"]
        assert not loaded.training
        assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in module.state_dict().items())
        assert loaded.data_config == module.data_config and loaded.model_config == module.model_config
        assert (params.cfg["N"], params.cfg["gridsize"], params.cfg["nphotons"]) == (32, 2, 1e9)
        assert {"N", "gridsize", "model_type", "intensity_scale"} <= set(restored)
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        before, after = (m.forward_predict(x, torch.zeros(2, 1, 1, 2)) for m in (module, loaded))
    assert torch.equal(before, after) and before.shape == (2, 1, 32, 32) and before.is_complex()


def test_a_stated_scale_wins(raw, tmp_path):
    module = fresh(raw)
    config = TrainingConfig(ModelConfig(N=32))
    save_torch_bundle({"diffraction_to_obj": module}, tmp_path / "wts.h5", config, intensity_scale=123.0)
    assert load_torch_bundle(tmp_path)[1]["intensity_scale"] == params.cfg["intensity_scale"] == 123.0


def test_where_it_was_unpacked(bundle, tmp_path):
    """ptychodus unpacks what it has saved, and hands over the folder; by hand there may be one folder more."""
    module, file = bundle
    flat, nested = tmp_path / "flat", tmp_path / "round" / "model"
    for folder in (flat, nested):
        with zipfile.ZipFile(file) as archive:
            archive.extractall(folder)
    for folder in (flat, nested.parent):
        loaded = load_torch_bundle(folder)[0]["diffraction_to_obj"]
        assert torch.equal(loaded.probe_parts, module.probe_parts)
        assert neutral.load_inference_bundle(folder)[0].module.data_config.N == 32
    (flat / "config.json").write_text("{}")
    with pytest.raises(InputError, match=r"config\.json does not match its checksum"):
        load_torch_bundle(flat)
    (flat / "weights.h5").unlink()
    with pytest.raises(InputError, match="found members"):
        load_torch_bundle(flat)


def test_any_member_that_is_missing_is_missed(bundle, tmp_path):
    _, file = bundle
    with zipfile.ZipFile(file) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    for left_out in contents:
        with zipfile.ZipFile(tmp_path / "less.zip", "w") as archive:
            for name, data in contents.items():
                if name != left_out:
                    archive.writestr(name, data)
        with pytest.raises(InputError, match=r"less\.zip: found members"):
            load_torch_bundle(tmp_path / "less.zip")


def test_any_byte_that_is_flipped_is_noticed(bundle, tmp_path):
    """In every member, and in the zip's own headers as far as they matter."""
    _, file = bundle
    whole = file.read_bytes()
    with zipfile.ZipFile(file) as source:
        spans = [(i.filename, i.header_offset + 30 + len(i.filename), i.compress_size) for i in source.infolist()]
    rng = np.random.default_rng(7)
    damaged = tmp_path / "wts.h5.zip"
    tried = dict.fromkeys((name for name, _, _ in spans), 0)
    for trial in range(240):
        name, start, size = spans[trial % len(spans)]
        at = start + int(rng.integers(size))
        damaged.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << int(rng.integers(8)))]) + whole[at + 1 :])
        with pytest.raises(InputError, match=r"wts\.h5\.zip"):
            load_torch_bundle(damaged)
        tried[name] += 1
    assert tried == {"manifest.json": 80, "config.json": 80, "weights.h5": 80}


def change(file, target, **changes):
    archive = load_archive(file)
    for name, edit in changes.items():
        edit(getattr(archive, name))
    save_archive(target, archive.models, archive.config, archive.backend)


def test_weights_must_be_all_there_and_no_more(bundle, tmp_path):
    _, file = bundle
    target = tmp_path / "changed.zip"
    change(file, target, models=lambda m: m["autoencoder"].popitem())
    with pytest.raises(InputError, match="do not fit"):
        load_torch_bundle(target)
    change(file, target, models=lambda m: m["autoencoder"].update(more=np.ones(2)))
    with pytest.raises(InputError, match="do not fit"):
        load_torch_bundle(target)
    change(file, target, models=lambda m: m["diffraction_to_obj"].update(probe_parts=np.ones((1, 16, 16, 2))))
    with pytest.raises(InputError, match="probe_parts has shape"):
        load_torch_bundle(target)
    change(file, target, models=lambda m: m["diffraction_to_obj"].pop("mean_counts"))
    with pytest.raises(InputError, match="mean_counts"):
        load_torch_bundle(target)


def test_what_it_does_not_say_of_the_frames(bundle, tmp_path):
    _, file = bundle
    change(file, tmp_path / "a.zip", config=lambda c: c["legacy"].pop("N"))
    with pytest.raises(ValueError, match=r"missing required fields: N\. Cannot reconstruct model architecture"):
        load_torch_bundle(tmp_path / "a.zip")


def test_other_backends_versions_and_kinds(bundle, tmp_path):
    _, file = bundle
    archive = load_archive(file)
    save_archive(tmp_path / "tf.zip", archive.models, archive.config, "tensorflow")
    with pytest.raises(InputError, match="made by backend 'tensorflow'"):
        load_torch_bundle(tmp_path / "tf.zip")
    with zipfile.ZipFile(file) as source:
        contents = {name: source.read(name) for name in source.namelist()}
    manifest = json.loads(contents["manifest.json"])
    contents["manifest.json"] = json.dumps(manifest | {"format_version": 99}).encode()
    with zipfile.ZipFile(tmp_path / "newer.zip", "w") as target:
        for name, data in contents.items():
            target.writestr(name, data)
    with pytest.raises(InputError, match="format version 99"):
        load_torch_bundle(tmp_path / "newer.zip")
    with zipfile.ZipFile(tmp_path / "old.zip", "w") as target:
        target.writestr("manifest.dill", b"")
        target.writestr("diffraction_to_obj/model.pth", b"")
    with pytest.raises(InputError, match="older, pickled kind.*refused"):
        load_torch_bundle(tmp_path / "old.zip")
    with pytest.raises(MissingFileError, match="Model archive not found"):
        load_torch_bundle(tmp_path / "nothing" / "wts.h5")
    with pytest.raises(InputError, match="no model 'decoder'"):
        load_torch_bundle(file, model_name="decoder")


def test_nothing_to_save(tmp_path):
    with pytest.raises(InputError, match="nothing trained among them"):
        save_torch_bundle({"autoencoder": {"_sentinel": "x"}}, tmp_path / "wts.h5", TrainingConfig(ModelConfig()))
    assert list(tmp_path.iterdir()) == []


def test_a_factor_of_widths_may_be_a_fraction(raw, tmp_path):
    module = fresh(raw, n_filters_scale=1.0)
    save_torch_bundle(
        {"diffraction_to_obj": module}, tmp_path / "wts.h5", TrainingConfig(ModelConfig(N=32, n_filters_scale=1.0))
    )
    models, restored = load_torch_bundle(tmp_path)
    assert models["diffraction_to_obj"].model_config.n_filters_scale == restored["n_filters_scale"] == 1.0


def test_a_fresh_module_for_a_group_size():
    module = create_torch_model_with_gridsize(1, 64, {"gridsize": 4, "model_type": "pinn", "n_filters_scale": 1})
    assert (module.data_config.C, module.model_config.C_model) == (1, 1)
    assert module.model.autoencoder.encoder.blocks[0].conv1.weight.shape[1] == 1
    four = create_torch_model_with_gridsize(2, 64, {"amp_activation": "swish", "object.big": True})
    first = next(m for m in four.model.autoencoder.encoder.modules() if isinstance(m, torch.nn.Conv2d))
    assert first.in_channels == 4


def test_the_handle_predicts_as_the_module_does(bundle, raw):
    module, file = bundle
    handle, _ = neutral.load_inference_bundle(file.parent)
    data = raw.generate_grouped_data(32, K=4, nsamples=5, gridsize=2, seed=0)
    amplitudes = data["X_full"] * params.get("intensity_scale")
    patches = handle.predict([amplitudes, data["coords_relative"]])
    assert patches.shape == (5, 32, 32, 4) and patches.dtype == np.complex64
    counts = raw.diff3d[data["nn_indices"]].astype(np.float32)
    # the legacy amplitudes are scaled over these groups, the module's over the scan
    ratio = amplitudes.sum() / np.sqrt(counts).sum()
    assert ratio == pytest.approx(1, abs=0.1)
    direct = module.forward_predict(
        torch.from_numpy(ratio * np.sqrt(counts)).float(),
        torch.from_numpy(data["coords_relative"].transpose(0, 3, 1, 2)).float(),
        None, 1 / module.intensity_scale,
    )  # fmt: skip
    np.testing.assert_allclose(patches, direct.numpy().transpose(0, 2, 3, 1), atol=1e-3)
    with pytest.raises(InputError, match="predict: found X of shape"):
        handle.predict([data["X_full"][..., 0], data["coords_relative"]])
