"""`--dry-run` with the real backend: it refuses what the run refuses, and nothing is left; `infer` looks at every scan
before it writes."""

import pytest
from runs import check_mistake, run, small_scan

SMALL = ("--device", "cpu", "-q")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Scans of two sizes, a model and a reconstruction of the smaller."""
    folder = tmp_path_factory.mktemp("dry_run")
    small_scan(n_frames=24).to_file(folder / "small.npz")
    small_scan(n_frames=24, seed=4).to_file(folder / "small2.npz")
    small_scan(n_frames=24, N=64).to_file(folder / "large.npz")
    words = ("--epochs", 1, "--calibration-epochs", 1, *SMALL)
    (folder / "unet.yaml").write_text("unet_channels: 4\n")
    result = run("train", folder / "small.npz", "-o", folder / "model", "--config", folder / "unet.yaml", *words)
    assert result.exit_code == 0, result.output
    result = run("refine", folder / "small.npz", "-o", folder / "refined", "--epochs", 2, *SMALL)
    assert result.exit_code == 0, result.output
    return folder


# what is typed, and what the message has to name
REFUSED = [
    ("train {files}/small.npz --init-from {files}/nowhere", "nowhere"),
    ("train {files}/small.npz --init-from {files}/large.npz", "large.npz"),
    ("train {files}/small.npz --init-from {files}/model", "the network there is another one"),
    ("train {files}/small.npz --n-subsample 3", "found 3 frame"),
    ("train {files}/small.npz --device cuda", "cuda"),
    ("train {files}/small.npz --architecture cnn", "cnn"),
    ("train {files}/small.npz {files}/large.npz", "different sides"),
    ("train {files}/small.npz --val-fraction 0.999", "val_fraction"),
    ("train {files}/small.npz --strategy nonsense", "nonsense"),
    ("infer {files}/model {files}/large.npz", "trained on 32 x 32"),
    ("infer {files}/model {files}/small.npz {files}/large.npz", "large.npz: frames are 64 x 64"),
    ("infer {files}/large.npz {files}/small.npz", "large.npz"),
    ("infer {files}/model {files}/small.npz --device cuda", "accelerator='cuda'"),
    ("refine {files}/large.npz --from {files}/refined", "found a probe of 32 x 32"),
    ("refine {files}/small.npz --from {files}/model --crop 16", "--crop"),
    ("refine {files}/small.npz --device cuda", "accelerator='cuda'"),
]


@pytest.mark.parametrize("more", [(), ("--dry-run",)], ids=["run", "dry run"])
@pytest.mark.parametrize(("line", "fragment"), REFUSED, ids=[line for line, _ in REFUSED])
def test_a_dry_run_refuses_what_the_run_refuses(files, tmp_path, line, fragment, more):
    words = line.format(files=files).split()
    words = words if "--device" in words else [*words, "--device", "cpu"]
    check_mistake(run(*words, "-o", tmp_path / "out", "-q", *more), fragment)
    assert not (tmp_path / "out").exists()


ACCEPTED = [
    "train {files}/small.npz {files}/small2.npz --pretrain-scans 3 --refine --halves --logger none",
    "train {files}/small.npz --init-from {files}/model --config {files}/unet.yaml",
    "infer {files}/model {files}/small.npz {files}/small2.npz --refine --projections 3",
    "refine {files}/small.npz --from {files}/model",
]


@pytest.mark.parametrize("line", ACCEPTED)
def test_a_dry_run_leaves_nothing(files, tmp_path, line, monkeypatch):
    monkeypatch.setattr("ptycho_torch.calibration.calibrate_probe", None)  # that would be work
    monkeypatch.chdir(tmp_path)
    before = sorted(files.rglob("*"))
    result = run(*line.format(files=files).split(), "-o", "out", *SMALL, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "nothing was written" in result.stdout and result.stderr == ""
    assert list(tmp_path.iterdir()) == [] and sorted(files.rglob("*")) == before


def test_what_is_superseded_is_said_once(files, tmp_path):
    (tmp_path / "run.yaml").write_text("probe_scale: 2.0\n")
    words = ("train", files / "small.npz", "-o", tmp_path / "out", "--config", tmp_path / "run.yaml", "--device", "cpu")
    result = run(*words, "--dry-run")
    assert result.exit_code == 0 and result.output.count("probe_scale=2.0 has no effect") == 1


def test_scans_that_do_not_fit_the_model_are_found_before_anything_is_written(files, tmp_path):
    """Also where an earlier one fits."""
    out = tmp_path / "out"
    for more in ((), ("--halves",)):
        words = ("infer", files / "model", files / "small.npz", files / "large.npz", "-o", out, *SMALL, *more)
        check_mistake(run(*words), "large.npz", "64 x 64", "32 x 32")
        assert not out.exists()
