"""The configurations that ptychodus hands over: completed, checked, and told of."""

import logging
import pickle
from pathlib import Path

import pytest
import torch
from facade import configs, trainer_for
from small_scans import small_scan

from ptycho.documents import with_tables
from ptycho.errors import InputError
from ptycho_torch.api import offered
from ptycho_torch.api.base_api import ConfigManager
from ptycho_torch.api.configuration import completed, device_here, payload_of_configs
from ptycho_torch.api.offered import fate
from ptycho_torch.config_params import DataConfig, ModelConfig


@pytest.fixture(scope="module")
def raw():
    return small_scan(80)


def test_configurations_travel_to_a_child():
    manager = configs()
    parts = pickle.loads(pickle.dumps(manager.to_tuple()))
    parts[2].n_devices = 1  # they may be changed there
    again = ConfigManager.from_configs(
        data_config=parts[0], model_config=parts[1], training_config=parts[2], inference_config=parts[3],
        datagen_config=parts[4],
    )  # fmt: skip
    assert again.to_tuple() == manager.to_tuple()
    assert ConfigManager({"N": 64}).data_config == DataConfig(N=64) and ConfigManager().model_config == ModelConfig()
    with pytest.raises(ValueError, match="found unknown batchsize"):
        ConfigManager(training_config={"batchsize": 3})


def test_what_follows_from_others():
    done = completed(configs(data={"grid_size": (3, 3), "C": 9}, model={"C_model": 4, "C_forward": 4}))
    assert (done.model_config.C_model, done.model_config.C_forward) == (9, 9)
    assert completed(configs(model={"mode": "Supervised"})).model_config.loss_function == "MAE"
    with pytest.raises(InputError, match=r"found 4 channels \(C, in ptychodus: num_channels\) for a grid of 3 x 3"):
        completed(configs(data={"grid_size": (3, 3)}))
    with pytest.raises(InputError, match="nll=False.*use_negative_log_likelihood_loss.*'MAE'"):
        completed(configs(training={"nll": False}))
    for allowed in ({"nll": False, "mae_weight": 1.0}, {}):
        completed(configs(training=allowed))
    completed(configs(training={"nll": False}, model={"loss_function": "MAE"}))


def test_an_epoch_of_larger_steps_is_given_more_of_them(tmp_path):
    """Early stopping counts epochs; a step takes C times the frames that it takes by default."""
    assert payload_of_configs(completed(configs()), tmp_path).tf_training_config.stop_window == 32
    one = configs(data={"grid_size": (1, 1), "C": 1})
    assert payload_of_configs(completed(one), tmp_path).tf_training_config.stop_window == 8


def test_the_machine(tmp_path, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    execution = payload_of_configs(
        completed(configs(training={"num_workers": 8, "device": "cuda", "n_devices": 2, "strategy": "ddp"})), tmp_path
    ).execution_config
    assert (execution.num_workers, execution.persistent_workers) == (3, True)
    assert (execution.accelerator, execution.devices, execution.strategy) == ("cpu", 1, "auto")
    assert "num_workers=8 (num_dataloader_workers): 3 are used" in caplog.text
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warned) == 2 and "n_devices=2" in warned[0] and "device='cuda'" in warned[1]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [device_here(name) for name in ("cuda", "gpu", "cuda:0", "auto", "cpu")] == ["cuda"] * 4 + ["cpu"]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert device_here("mps") == "cpu"
    with pytest.raises(InputError, match="device: found 'xpu'.*CUDA_VISIBLE_DEVICES"):
        device_here("xpu")


def test_what_has_no_effect_is_told_once(raw, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    raw.to_file(tmp_path / "scan.npz")
    manager = configs(inference={"window": 7, "experiment_number": 2}, training={"epochs": 1, "warmup_epochs": 3})
    trainer, _, _ = trainer_for(tmp_path, manager)
    trainer.train()
    for text in ("window=7 has no effect", "experiment_number=2 has no effect", "warmup_epochs=3 has no effect"):
        assert caplog.text.count(text) == 1
    assert "decoder_last_amp_channels" not in caplog.text


def test_the_page_of_settings_is_up_to_date():
    page = Path(__file__).resolve().parents[2] / "docs" / "ptychodus.md"
    text = page.read_text(encoding="utf-8")
    assert with_tables(text, offered.TABLES) == text


def test_every_setting_has_a_fate():
    known = {name: fate(config, text) for config, names in offered.OFFERED.values() for name, text in names.items()}
    assert known["edge_pad"].startswith("no effect: patches are merged")
    assert known["epochs_finetune"] == "refused: training has one stage"
    assert known["learning_rate"] == "of the optimiser"
    assert all(known.values()) and len(known) > 100
