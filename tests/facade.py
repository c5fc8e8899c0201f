"""The facade of ptychodus, called as its child processes call it."""

from ptycho_torch.api.base_api import ConfigManager, DataloaderFormats, PtychoDataLoader, PtychoModel, Trainer
from ptycho_torch.config_params import DataConfig, DatagenConfig, InferenceConfig, ModelConfig, TrainingConfig
from ptycho_torch.model import PtychoPINN_Lightning

EPOCHS = 2


def configs(**changes):
    """As ptychodus passes them, for two epochs of a small network."""
    training = {"epochs": EPOCHS, "num_workers": 0, "device": "cpu", **changes.get("training", {})}
    model = {"decoder_last_amp_channels": 4, "unet_channels": 4, "merge_block": 12, **changes.get("model", {})}
    return ConfigManager(
        data_config=DataConfig(N=128, **changes.get("data", {})), model_config=ModelConfig(**model),
        training_config=TrainingConfig(**training), inference_config=InferenceConfig(**changes.get("inference", {})),
        datagen_config=DatagenConfig(),
    )  # fmt: skip


def trainer_for(folder, manager):
    """(trainer, loader, model) for the scans of a folder, in which the run is left."""
    loader = PtychoDataLoader(
        data_dir=folder, config_manager=manager, data_format=DataloaderFormats("lightning_only_module"),
        output_dir=folder,
    )  # fmt: skip
    model = PtychoModel._new_model(model=PtychoPINN_Lightning, config_manager=manager)
    return Trainer._from_lightning(
        model=model, dataloader=loader, orchestration="lightning", config_manager=manager
    ), loader, model  # fmt: skip
