"""The package itself: its names, what importing it imports, and what it says without torch."""

import importlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import ptycho_torch

ROOT = Path(__file__).resolve().parents[2]

PUBLIC = {
    "MemmapDatasetBridge",
    "PtychoDataContainerTorch",
    "RawDataTorch",
    "TORCH_AVAILABLE",
    "load_inference_bundle_torch",
    "run_cdi_example_torch",
    "to_inference_config",
    "to_model_config",
    "to_training_config",
    "train_cdi_model_torch",
}
OF_THE_WORKFLOWS = {"load_inference_bundle_torch", "run_cdi_example_torch", "train_cdi_model_torch"}


def run(code, check=True):
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode == 0) == check, done.stderr
    return done.stdout if check else done.stderr


def test_public_names():
    assert set(ptycho_torch.__all__) == PUBLIC and len(ptycho_torch.__all__) == len(PUBLIC)
    assert set(dir(ptycho_torch)) >= PUBLIC
    assert ptycho_torch.TORCH_AVAILABLE is True


@pytest.mark.parametrize("name", sorted(PUBLIC - OF_THE_WORKFLOWS - {"TORCH_AVAILABLE"}))
def test_names_are_those_of_their_modules(name):
    value = getattr(ptycho_torch, name)
    assert value.__name__ == name and value.__module__.startswith("ptycho_torch.")
    assert value is getattr(importlib.import_module(value.__module__), name)


def test_submodules_and_names_in_one_import():
    code = (
        "from ptycho_torch import config_bridge, reassembly, to_model_config\n"
        "print(config_bridge.__name__, reassembly.__name__, to_model_config is config_bridge.to_model_config)"
    )
    assert run(code).split() == ["ptycho_torch.config_bridge", "ptycho_torch.reassembly", "True"]


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="'ptycho_torch' has no attribute 'nothing'"):
        _ = ptycho_torch.nothing
    assert not hasattr(ptycho_torch, "nothing")
    with pytest.raises(ImportError):
        exec("from ptycho_torch import nothing")


def test_a_cold_import_takes_torch_and_nothing_of_ours():
    loaded = set(run("import sys, ptycho_torch; print(*sys.modules)").split())
    assert {"torch", "ptycho_torch"} <= loaded
    assert {name for name in loaded if name.startswith(("ptycho_torch.", "ptycho.", "lightning"))} == set()


def test_a_missing_torch_is_named_with_its_remedy():
    message = run("import sys; sys.modules['torch'] = None; import ptycho_torch", check=False)
    assert "RuntimeError: PyTorch is required for ptycho_torch package" in message
    assert "pip install torch>=2.2" in message


def test_threads_get_one_object():
    code = (
        "import threading, ptycho_torch\n"
        "gate, found = threading.Barrier(8), []\n"
        "def look():\n"
        "    gate.wait()\n"
        "    found.append((ptycho_torch.to_model_config, ptycho_torch.RawDataTorch))\n"
        "threads = [threading.Thread(target=look) for _ in range(8)]\n"
        "[t.start() for t in threads]; [t.join(60) for t in threads]\n"
        "print(len(found), len({id(a) for a, _ in found}), len({id(b) for _, b in found}))"
    )
    for _ in range(2):
        assert run(code).split() == ["8", "1", "1"]


def test_threads_that_ask_for_different_names_do_not_wait_for_ever():
    names = sorted(PUBLIC - OF_THE_WORKFLOWS)
    found = {}
    threads = [threading.Thread(target=lambda n=n: found.update({n: getattr(ptycho_torch, n)})) for n in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert set(found) == set(names)
