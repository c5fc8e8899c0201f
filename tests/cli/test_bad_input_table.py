"""Bad input, over all verbs and kinds of files: one message with exit code 2 each, and nothing half-written.

The table holds command lines; `{name}` in them is a file of the fixture `files`, `{out}` a folder that is not there
yet. Each row tells what the message has to name.
"""

import errno
import json
import zipfile

import h5py
import numpy as np
import pytest
from runs import check_mistake, run, small_scan

from ptycho.config.config import ModelConfig, PyTorchExecutionConfig, TrainingConfig

N_FRAMES = 24


def arrays_of(raw):
    return {"diff3d": np.asarray(raw.diff3d), "xcoords": raw.xcoords, "ycoords": raw.ycoords, "probeGuess": raw.probe}


def poisoned(frames, value, dtype=np.float32):
    frames = frames.astype(dtype)
    frames[3, 4, 5] = value
    return frames


def bad_arrays(good):
    """Name -> the arrays of a scan that cannot be used."""
    frames, x, probe = good["diff3d"], good["xcoords"], good["probeGuess"]
    changes = {
        "no_frames": {"diff3d": None},
        "no_x": {"xcoords": None},
        "no_y": {"ycoords": None},
        "no_probe": {"probeGuess": None},
        "short_positions": {"xcoords": x[:-1], "ycoords": x[:-1]},
        "positions_2d": {"xcoords": x[:, None]},
        "positions_nan": {"xcoords": np.where(np.arange(len(x)) == 7, np.nan, x)},
        "positions_inf": {"ycoords": np.where(np.arange(len(x)) == 7, np.inf, x)},
        "positions_complex": {"xcoords": x * 1j},
        "positions_in_m": {"xcoords": x * 1e-9, "ycoords": good["ycoords"] * 1e-9},
        "positions_far": {"xcoords": x * 1e6, "ycoords": good["ycoords"] * 1e6},
        "frames_2d": {"diff3d": frames[0]},
        "frames_4d": {"diff3d": frames[None]},
        "frames_swapped": {"diff3d": frames.transpose(1, 0, 2)},
        "frames_oblong": {"diff3d": frames[:, :, :30]},
        "frames_complex": {"diff3d": frames * 1j},
        "frames_text": {"diff3d": frames.astype(str)},
        "frames_nan": {"diff3d": poisoned(frames, np.nan)},
        "frames_inf": {"diff3d": poisoned(frames, np.inf)},
        "frames_negative": {"diff3d": poisoned(frames, -1)},
        "frames_sentinel": {"diff3d": poisoned(frames, 2**32 - 1, np.uint32)},
        "frames_zero": {"diff3d": np.zeros_like(frames)},
        "frames_none": {"diff3d": frames[:0], "xcoords": x[:0], "ycoords": x[:0]},
        "probe_small": {"probeGuess": probe[..., :16, :16]},
        "probe_oblong": {"probeGuess": probe[..., :16]},
        "probe_zero": {"probeGuess": np.zeros_like(probe)},
        "probe_nan": {"probeGuess": probe * np.nan},
        "probe_real_text": {"probeGuess": np.full((32, 32), "a")},
        "pickle": {"probeGuess": np.array([{}], dtype=object)},
        "mask_of_all": {"bad_pixels": np.ones((32, 32), bool)},
        "mask_small": {"bad_pixels": np.zeros((16, 16), bool)},
        "domain_unknown": {"measurement_domain": "fields"},
    }
    for name, change in changes.items():
        yield name, {key: value for key, value in (good | change).items() if value is not None}


def damaged(path, target, change):
    """A copy of an archive with one JSON member changed."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name == "manifest.json":
                manifest = json.loads(data)
                change(manifest)
                data = json.dumps(manifest).encode()
            new.writestr(name, data)


def write_models(folder):
    """A model that works, and some that do not."""
    from ptycho_torch.workflows.reconstruct import train_scan

    config = TrainingConfig(ModelConfig(N=32, unet_channels=4), nepochs=1, calibration_epochs=1, output_dir=folder)
    config.train_data_file = None
    train_scan(small_scan(N_FRAMES), config, PyTorchExecutionConfig(accelerator="cpu"), output_dir=folder / "model")
    good = folder / "model" / "wts.h5.zip"
    for name, change in {
        "newer": lambda manifest: manifest.update(format_version=99),
        "foreign": lambda manifest: manifest.update(backend="tensorflow"),
    }.items():
        (folder / name).mkdir()
        damaged(good, folder / name / "wts.h5.zip", change)
    data = good.read_bytes()
    for name, content in {"short": data[: len(data) // 2], "text": b"no model", "nothing": b""}.items():
        (folder / f"model_{name}").mkdir()
        (folder / f"model_{name}" / "wts.h5.zip").write_bytes(content)
    with zipfile.ZipFile(folder / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "of something else")
    (folder / "pickled").mkdir()
    with zipfile.ZipFile(folder / "pickled" / "wts.h5.zip", "w") as archive:
        archive.writestr("manifest.dill", b"\x80\x04.")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder with everything that the table names."""
    folder = tmp_path_factory.mktemp("files")
    raw = small_scan(N_FRAMES)
    raw.to_file(folder / "good.npz")
    for name, arrays in bad_arrays(arrays_of(raw)):
        np.savez(folder / f"{name}.npz", **arrays)
    whole = (folder / "good.npz").read_bytes()
    for name, data in {"short": whole[: len(whole) // 2], "text": b"no archive", "nothing": b""}.items():
        (folder / f"{name}.npz").write_bytes(data)
    for name, text in {
        "misspelt.yaml": "nepoch: 3\n", "type.yaml": "nepochs: many\n", "broken.yaml": "nepochs: [1,\n",
        "list.yaml": "- 1\n", "section.yaml": "model: 5\n", "value.yaml": "optimizer: best\n",
        "python.yaml": "nepochs: !!python/object/apply:os.system ['true']\n",
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    np.save(folder / "mask_small.npy", np.zeros((16, 16), bool))
    np.save(folder / "mask_all.npy", np.ones((32, 32), bool))
    np.save(folder / "mask_3d.npy", np.zeros((2, 32, 32), bool))
    (folder / "mask.txt").write_text("0 0\n")
    np.savez(folder / "object_real_text.npz", object=np.full((40, 40), "a"))
    np.savez(folder / "object_none.npz", amplitude=np.ones((40, 40)))
    np.savez(folder / "object_flat.npz", object=np.ones((3, 3), np.complex64))
    with h5py.File(folder / "empty.h5", "w"):
        pass
    with h5py.File(folder / "odd_product.h5", "w") as file:
        file["object"], file["probe"] = np.ones((40, 40), np.complex64), np.ones((1, 1, 32, 32), np.complex64)
        file["probe_position_x_m"] = file["probe_position_y_m"] = np.zeros(3)
        file["object"].attrs.update({"pixel_width_m": "12 nm", "pixel_height_m": 1.2e-8})
    np.savez(folder / "object_odd_center.npz", object=np.ones((40, 40), np.complex64), center_xy=np.array(["a", "b"]))
    (folder / "text.h5").write_text("no HDF5")
    (folder / "empty_folder").mkdir()
    write_models(folder)
    return folder


SCANS = {
    "no_frames": "diff3d", "no_x": "xcoords", "no_y": "ycoords", "short_positions": "23",
    "positions_2d": "xcoords", "positions_nan": "xcoords", "positions_inf": "ycoords",
    "positions_complex": "complex",
    "positions_in_m": "metres", "positions_far": "pixels", "frames_2d": "rank 2", "frames_4d": "rank 4",
    "frames_swapped": "24 x 32", "frames_oblong": "square", "frames_complex": "complex",
    "frames_text": "dtype", "frames_nan": "NaN",
    "frames_inf": "infinite", "frames_negative": "negative",
    "frames_sentinel": "4294967295", "frames_zero": "count",
    "frames_none": "empty", "probe_small": "16 x 16", "probe_oblong": "probeGuess", "probe_zero": "zeros",
    "probe_nan": "probeGuess", "probe_real_text": "probeGuess", "pickle": "pickle", "mask_of_all": "bad_pixels",
    "mask_small": "16", "domain_unknown": "fields",
    "short": "short.npz", "text": "text.npz", "nothing": "empty", "nowhere": "no such file",
}  # fmt: skip
WITH_SCAN = {
    "train": "train {scan} -o {out}",
    "refine": "refine {scan} -o {out}",
    "infer": "infer {files}/model {scan} -o {out}",
    "check-orientation": "check-orientation {scan}",
}

OTHERS = [
    ("train {files}/no_probe.npz -o {out}", "probe"),
    ("refine {files}/no_probe.npz -o {out}", "probe"),
    ("train {files}/good.npz", "--output-dir"),
    ("train -o {out}", "SCAN"),
    ("train {files}/good.npz -o {files}/good.npz", "good.npz"),
    ("train {files}/text.h5 -o {out}", "text.h5"),
    ("train {files}/empty.h5 -o {out}", "empty.h5"),
    ("train {files}/empty_folder -o {out}", "folder"),
    ("train {files}/good.npz -o {out} --crop 33", "33"),
    ("train {files}/good.npz -o {out} --crop 0", "--crop"),
    ("train {files}/good.npz -o {out} --epochs -1", "--epochs"),
    ("train {files}/good.npz -o {out} --epochs many", "--epochs"),
    ("train {files}/good.npz -o {out} --epochs 1.5", "--epochs"),
    ("train {files}/good.npz -o {out} --learning-rate 0", "--learning-rate"),
    ("train {files}/good.npz -o {out} --learning-rate nan", "learning"),
    ("train {files}/good.npz -o {out} --max-time soon", "--max-time"),
    ("train {files}/good.npz -o {out} --max-time -5", "--max-time"),
    ("train {files}/good.npz -o {out} --device tpu", "tpu"),
    ("train {files}/good.npz -o {out} --architecture resnet99", "resnet99"),
    ("train {files}/good.npz -o {out} --optimizer best", "best"),
    ("train {files}/good.npz -o {out} --scheduler Sometimes", "Sometimes"),
    ("train {files}/good.npz -o {out} --val-fraction 1.5", "val"),
    ("train {files}/good.npz -o {out} --val-fraction -0.1", "val"),
    ("train {files}/good.npz -o {out} --measurement-domain fields", "fields"),
    ("train {files}/good.npz -o {out} --measurement-domain normalized_amplitude", "nphotons"),
    ("train {files}/good.npz -o {out} --init-from {files}/empty_folder", "empty_folder"),
    ("train {files}/good.npz -o {out} --init-from {files}/model_text", "model_text"),
    ("train {files}/good.npz -o {out} --init-from {files}/newer", "99"),
    ("train {files}/good.npz -o {out} --mask {files}/mask_small.npy", "mask_small.npy"),
    ("train {files}/good.npz -o {out} --mask {files}/mask_all.npy", "mask_all.npy"),
    ("train {files}/good.npz -o {out} --mask {files}/mask_3d.npy", "mask_3d.npy"),
    ("train {files}/good.npz -o {out} --mask {files}/mask.txt", "mask.txt"),
    ("train {files}/good.npz -o {out} --mask {files}/nowhere.npy", "nowhere.npy"),
    ("train {files}/good.npz -o {out} --saturation 0", "--saturation"),
    ("train {files}/good.npz -o {out} --saturation 1e-6", "mask"),
    ("train {files}/good.npz -o {out} --sentinel a,b", "sentinel"),
    ("train {files}/good.npz -o {out} --background -1", "--background"),
    ("train {files}/good.npz -o {out} --pixel-size 0", "--pixel-size"),
    ("train {files}/good.npz -o {out} --energy -3", "--energy"),
    ("train {files}/good.npz -o {out} --config {files}/misspelt.yaml", "nepochs"),
    ("train {files}/good.npz -o {out} --config {files}/type.yaml", "many"),
    ("train {files}/good.npz -o {out} --config {files}/broken.yaml", "broken.yaml"),
    ("train {files}/good.npz -o {out} --config {files}/list.yaml", "list.yaml"),
    ("train {files}/good.npz -o {out} --config {files}/section.yaml", "section.yaml"),
    ("train {files}/good.npz -o {out} --config {files}/value.yaml", "best"),
    ("train {files}/good.npz -o {out} --config {files}/python.yaml", "python.yaml"),
    ("train {files}/good.npz -o {out} --config {files}/nowhere.yaml", "nowhere.yaml"),
    ("train {files}/good.npz -o {out} --quiet --verbose", "--verbose"),
    ("train {files}/good.npz -o {out} --no-such-flag", "--no-such-flag"),
    ("train {files}/good.npz -o {out} --reference {files}/nowhere.npz", "nowhere.npz"),
    ("train {files}/good.npz -o {out} --reference {files}/object_none.npz", "object_none.npz"),
    ("train {files}/good.npz -o {out} --reference {files}/text.npz", "text.npz"),
    ("train {files}/good.npz -o {out} --reference {files}/odd_product.h5", "pixel_width_m"),
    ("train {files}/good.npz -o {out} --reference {files}/object_odd_center.npz", "center_xy"),
    ("train {files}/good.npz -o {out} --half 4", "--half"),
    ("infer {files}/nowhere {files}/good.npz -o {out}", "nowhere"),
    ("infer {files}/empty_folder {files}/good.npz -o {out}", "wts.h5.zip"),
    ("infer {files}/newer {files}/good.npz -o {out}", "99"),
    ("infer {files}/foreign {files}/good.npz -o {out}", "tensorflow"),
    ("infer {files}/model_short {files}/good.npz -o {out}", "model_short"),
    ("infer {files}/model_text {files}/good.npz -o {out}", "model_text"),
    ("infer {files}/model_nothing {files}/good.npz -o {out}", "model_nothing"),
    ("infer {files}/other.zip {files}/good.npz -o {out}", "other.zip"),
    ("infer {files}/pickled {files}/good.npz -o {out}", "pickle"),
    ("infer {files}/model {files}/good.npz -o {out} --crop 16", "16"),
    ("infer {files}/model {files}/good.npz", "--output-dir"),
    ("infer {files}/model -o {out}", "SCAN"),
    ("infer {files}/model {files}/good.npz {files}/text.npz -o {out}", "text.npz"),
    ("refine {files}/good.npz -o {out} --from {files}/nowhere.npz", "nowhere.npz"),
    ("refine {files}/good.npz -o {out} --from {files}/text.h5", "text.h5"),
    ("refine {files}/good.npz -o {out} --from {files}/object_none.npz", "object_none.npz"),
    ("refine {files}/good.npz -o {out} --from {files}/odd_product.h5", "12 nm"),
    ("refine {files}/good.npz -o {out} --from {files}/object_odd_center.npz", "center_xy"),
    ("refine {files}/good.npz -o {out} --epochs -1", "--epochs"),
    ("refine {files}/good.npz -o {out} --modes 0", "--modes"),
    ("refine {files}/good.npz -o {out} --batch 0", "--batch"),
    ("inspect {files}/nowhere.npz", "nowhere.npz"),
    ("inspect {files}/text.npz", "text.npz"),
    ("inspect {files}/nothing.npz", "nothing.npz"),
    ("inspect {files}/empty.h5", "empty.h5"),
    ("inspect {files}/odd_product.h5", "pixel_width_m"),
    ("inspect {files}/object_odd_center.npz", "center_xy"),
    ("inspect {files}/empty_folder", "empty_folder"),
    ("inspect {files}/model_short", "model_short"),
    ("inspect {files}/misspelt.yaml", "misspelt.yaml"),
    ("inspect", "FILE"),
    ("evaluate {files}/good.npz {files}/nowhere.npz", "nowhere.npz"),
    ("evaluate {files}/good.npz {files}/object_none.npz", "object_none.npz"),
    ("evaluate {files}/object_real_text.npz {files}/good.npz", "object_real_text.npz"),
    ("evaluate {files}/text.h5 {files}/good.npz", "text.h5"),
    ("evaluate {files}/odd_product.h5 {files}/good.npz", "pixel_width_m"),
    ("evaluate {files}/good.npz {files}/object_odd_center.npz", "center_xy"),
    ("evaluate {files}/object_flat.npz {files}/good.npz", "3"),
    ("evaluate {files}/good.npz", "B"),
    ("simulate", "--output"),
    ("simulate -o {out}/a.txt", "a.txt"),
    ("simulate -o {files}/good.npz", "good.npz"),
    ("simulate -o {out}/a.npz --frames 0", "--frames"),
    ("simulate -o {out}/a.npz --counts -1", "--counts"),
    ("simulate -o {out}/a.npz --overlap 1", "--overlap"),
    ("simulate -o {out}/a.npz --object cat", "cat"),
    ("simulate -o {out}/a.npz --object file", "--object-file"),
    ("simulate -o {out}/a.npz --object file --object-file {files}/text.npz", "text.npz"),
    ("simulate -o {out}/a.npz --probe file --probe-file {files}/nowhere.npy", "nowhere.npy"),
    ("simulate -o {out}/a.npz --object-option radius", "radius"),
    ("simulate -o {out}/a.npz --object-option colour=red", "colour"),
    ("simulate -o {out}/a.npz --amplitude 1 0.5", "amplitude"),
    ("demo -o {files}", "expected an empty"),
    ("demo -o {out} --epochs -3", "--epochs"),
    ("fly", "fly"),
]


def command(line, files, out):
    return [word.format(files=files, out=out) for word in line.split()]


def refused(line, fragment, files, tmp_path):
    before = sorted(files.rglob("*"))
    out = tmp_path / "out"
    check_mistake(run(*command(line, files, out)), fragment)
    assert not out.exists() and sorted(files.rglob("*")) == before


@pytest.mark.parametrize("verb", WITH_SCAN)
@pytest.mark.parametrize("scan", SCANS)
def test_scans(files, tmp_path, scan, verb):
    line = WITH_SCAN[verb].replace("{scan}", f"{{files}}/{scan}.npz")
    refused(line, SCANS[scan], files, tmp_path)


@pytest.mark.parametrize(("line", "fragment"), OTHERS, ids=[line for line, _ in OTHERS])
def test_others(files, tmp_path, line, fragment):
    refused(line, fragment, files, tmp_path)


@pytest.mark.parametrize(
    "line", ["simulate -o {out}/a.npz --frames 20 -N 32", "infer {files}/model {files}/good.npz -o {out}"]
)
def test_a_full_disk(files, tmp_path, monkeypatch, line):
    def no_space(*_args, **_keywords):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", no_space)
    monkeypatch.setattr(np, "savez_compressed", no_space)
    out = tmp_path / "out"
    check_mistake(run(*command(line, files, out)), "No space left on device", "out")
    assert not out.exists() or not [path for path in out.iterdir() if path.suffix in (".npz", ".tmp")]
