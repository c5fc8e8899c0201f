"""The public configuration API in one place; the definitions live in the neighbouring modules.

Importing this module imports the standard library only: no torch (it is imported when a
PyTorchExecutionConfig has to resolve accelerator 'auto'), no yaml (imported by load_yaml_config).
"""

from __future__ import annotations

from ptycho.config.execution import PyTorchExecutionConfig
from ptycho.config.legacy import KEY_MAPPINGS, dataclass_to_legacy_dict, load_yaml_config, update_legacy_dict
from ptycho.config.models import InferenceConfig, ModelConfig, TrainingConfig
from ptycho.config.validation import (
    validate_inference_config,
    validate_model_config,
    validate_training_config,
)

# The stable surface: ptychodus, scripts and the PyTorch backend import exactly these names from here. What is
# not listed (helpers, tables of allowed values) may move without notice.
__all__ = [
    "ModelConfig",
    "TrainingConfig",
    "InferenceConfig",
    "PyTorchExecutionConfig",
    "validate_model_config",
    "validate_training_config",
    "validate_inference_config",
    "KEY_MAPPINGS",
    "dataclass_to_legacy_dict",
    "update_legacy_dict",
    "load_yaml_config",
]
