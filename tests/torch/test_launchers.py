"""Processes that a launcher has started: the results of one, written once."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_scans import small_scan

from ptycho import launch
from ptycho.config.config import PyTorchExecutionConfig
from ptycho.errors import InputError
from ptycho.model_manager import load_archive
from ptycho_torch.lightning_utils import trainer_arguments

ROOT = Path(__file__).parents[2]
COMMAND = ["-m", "ptycho.cli.main"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
SLURM = {"STEP_NUM_TASKS": "2", "NTASKS": "2", "NTASKS_PER_NODE": "2", "STEP_NUM_NODES": "1", "NNODES": "1",
         "NODELIST": "127.0.0.1", "JOB_ID": "12345", "JOB_NAME": "job"}  # fmt: skip


def environment(**more):
    """Of the machine, without what a launcher of these tests has left."""
    left = ("SLURM_", "TORCHELASTIC", "WORLD_SIZE", "RANK", "LOCAL_", "MASTER_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left)}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **more}


def run(*words, timeout_s=240):
    words = [str(word) for word in words]
    return subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=timeout_s, check=False)


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.h5"
    small_scan(60).to_file(path)
    return path


def training(scan_file, out):
    """Plain gradient steps, which two processes take as one does, up to rounding."""
    return ["train", scan_file, "--output-dir", out, "--accelerator", "cpu", "--epochs", "1", "--batch-size", "12",
            "--projection-steps", "3", "--no-calibrate", "--optimizer", "sgd",
            "--learning-rate", "2e-3",
            "--merge-block", "6"]  # fmt: skip


@pytest.fixture(scope="module")
def by_one(scan_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "out"
    done = run(sys.executable, *COMMAND, *training(scan_file, out))
    assert done.returncode == 0, done.stderr
    return out


def check_as_one(out, by_one):
    """The same weights, the same object, the same files."""
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in by_one.iterdir())
    found, expected = (load_archive(folder).models["autoencoder"] for folder in (out, by_one))
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)
    assert max(np.abs(value).max() for name, value in found.items() if "head" in name) > 1e-4  # it has learned
    images = [np.load(folder / "reconstruction.npz")["object"] for folder in (out, by_one)]
    np.testing.assert_allclose(*images, atol=1e-4)


@pytest.mark.slow
def test_torchrun_trains_and_infers_as_one_process(scan_file, by_one, tmp_path):
    done = run(*TORCHRUN, *COMMAND, *training(scan_file, tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Results are in") == 1
    check_as_one(tmp_path / "out", by_one)
    words = ["infer", by_one, scan_file, "--accelerator", "cpu", "--output-dir"]
    alone = run(sys.executable, *COMMAND, *words, tmp_path / "alone")
    shared = run(*TORCHRUN, *COMMAND, *words, tmp_path / "shared")
    assert (alone.returncode, shared.returncode) == (0, 0), shared.stderr
    assert shared.stdout.count("Results are in") == 1
    images = [np.load(tmp_path / name / "reconstruction.npz")["object"] for name in ("alone", "shared")]
    np.testing.assert_allclose(*images, atol=1e-5)


@pytest.mark.slow
def test_two_nodes_train_as_one_process(scan_file, by_one, tmp_path):
    """Two launchers, of one process each, that meet."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meeting = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    words = [str(word) for word in training(scan_file, tmp_path / "out")]
    started = [
        subprocess.Popen([*TORCHRUN[:3], *meeting, "--node-rank", str(node), *COMMAND, *words],
                         env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for node in (0, 1)
    ]  # fmt: skip
    texts = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0, 0], texts
    assert ["Results are in" in out for out, _ in texts].count(True) == 1
    check_as_one(tmp_path / "out", by_one)


@pytest.mark.slow
def test_the_environment_of_srun_is_understood(scan_file, by_one, tmp_path):
    words = [str(word) for word in training(scan_file, tmp_path / "out")]
    started = []
    for task in ("0", "1"):
        values = {**SLURM, "PROCID": task, "LOCALID": task, "NODEID": "0"}
        said = {f"SLURM_{name}": value for name, value in values.items()}
        started.append(subprocess.Popen([sys.executable, *COMMAND, *words], env=environment(**said),
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))  # fmt: skip
    texts = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0, 0], texts
    assert "Results are in" in texts[0][0] and texts[1][0] == ""
    check_as_one(tmp_path / "out", by_one)


@pytest.mark.slow
def test_a_process_that_fails_ends_all(tmp_path):
    script = tmp_path / "fails.py"
    script.write_text(
        "import torch\nfrom ptycho_torch import processes\n"
        "with processes.together('cpu') as share:\n"
        "    assert share.common(share.number) == 0 and float(share.total(torch.ones(1))) == 2\n"
        "    if share.number == 1:\n        raise ValueError('the second one')\n"
        "    share.total(torch.ones(3))\n"
    )
    done = run(*TORCHRUN, script, timeout_s=120)
    assert done.returncode != 0 and "the second one" in done.stderr


@pytest.fixture
def torchrun_says(monkeypatch):
    def say(number, of, on_node, per_node):
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
        for name, value in zip(("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
                               (number, of, on_node, per_node), strict=True):  # fmt: skip
            monkeypatch.setenv(name, str(value))

    return say


def test_places(torchrun_says, monkeypatch):
    assert launch.place() == (0, 1, 0, 1)
    for name, value in {**SLURM, "STEP_NUM_TASKS": "6", "STEP_NUM_NODES": "3", "PROCID": "3", "LOCALID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert launch.place() == (3, 6, 1, 2) and launch.place().nodes == 3
    monkeypatch.setenv("SLURM_STEP_NUM_NODES", "4")
    with pytest.raises(InputError, match="equally many"):
        launch.place()
    torchrun_says(5, 8, 1, 4)
    assert launch.place() == (5, 8, 1, 4) and launch.place().nodes == 2


@pytest.mark.parametrize(
    ("nodes", "host"),
    [("n1", "n1"), ("a,b", "a"), ("n[03-05,08]", "n03"), ("n[3,8]-ib,x", "n3-ib"), ("x,n[1-2]", "x"), ("::1", "::1")],
)
def test_where_the_tasks_of_a_job_meet(nodes, host, monkeypatch):
    monkeypatch.delenv("SLURM_STEP_NODELIST", raising=False)
    monkeypatch.delenv("MASTER_PORT", raising=False)
    monkeypatch.setenv("SLURM_NODELIST", nodes)
    monkeypatch.setenv("SLURM_JOB_ID", "1234567")
    assert launch.slurm_meeting() == (host, 15000 + 4567)


def test_the_trainer_takes_the_processes_that_are_there(torchrun_says, tmp_path):
    def processes(devices):
        execution = PyTorchExecutionConfig(accelerator="cpu", devices=devices, logger_backend=None)
        return trainer_arguments(execution, tmp_path, "val_loss", 1)

    assert "num_nodes" not in processes(1)
    torchrun_says(2, 4, 0, 2)
    for devices in (1, 2, "auto"):
        found = processes(devices)
        assert (found["devices"], found["num_nodes"]) == (2, 2)
    with pytest.raises(InputError, match="devices=3: found 2 processes"):
        processes(3)
