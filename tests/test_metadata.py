"""MetadataManager: what is stored, that no pickle is needed or read, comparison, merging."""

import json
import time
import zipfile
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from small_scans import write_scan

import ptycho
from ptycho.config.config import InferenceConfig, ModelConfig, TrainingConfig
from ptycho.errors import InputError, MissingFileError
from ptycho.metadata import MetadataManager
from ptycho.raw_data import RawData
from ptycho.validation import metadata_nphotons


@pytest.fixture
def config():
    model = ModelConfig(N=128, gridsize=2, model_type="supervised")
    return TrainingConfig(
        model, nphotons=5e8, n_groups=40, batch_size=7, nepochs=3, probe_trainable=True, nll_weight=0.5
    )


@pytest.fixture
def metadata(config):
    return MetadataManager.create_metadata(config, script_name="simulate.py")


def stored_text(path):
    """What is in the file, seen by NumPy alone and with pickle forbidden."""
    with np.load(path, allow_pickle=False) as npz:
        return npz["_metadata"]


# ---- making


def test_sections_of_a_training_config(config):
    made = MetadataManager.create_metadata(config, script_name="simulate.py", object_type="lines", jitter=3)
    assert made["schema_version"] == "1.0.0"
    creation = made["creation_info"]
    assert set(creation) == {"timestamp", "script", "hostname", "ptychopinn_version"}
    assert (creation["script"], creation["ptychopinn_version"]) == ("simulate.py", ptycho.__version__)
    assert abs(datetime.fromisoformat(creation["timestamp"]).timestamp() - time.time()) < 60
    assert made["physics_parameters"] == {
        "nphotons": 5e8,
        "gridsize": 2,
        "N": 128,
        "probe_trainable": True,
        "intensity_scale_trainable": True,
        "nll_weight": 0.5,
        "model_type": "supervised",
    }
    assert made["training_parameters"] == {"n_groups": 40, "batch_size": 7, "nepochs": 3}
    assert made["data_transformations"] == []
    assert made["additional_parameters"] == {"object_type": "lines", "jitter": 3}


def test_other_configurations_give_what_they_have(metadata):
    of_model = MetadataManager.create_metadata(ModelConfig(N=32), script_name="x")
    assert of_model["physics_parameters"] == {"N": 32, "gridsize": 1, "model_type": "pinn"}
    assert of_model["training_parameters"] == {}
    inference = InferenceConfig(ModelConfig(N=64), Path("m"), Path("t"), n_groups=9)
    of_inference = MetadataManager.create_metadata(inference, script_name="x")
    assert of_inference["training_parameters"] == {"n_groups": 9}
    assert "additional_parameters" not in metadata


def test_the_deprecated_number_of_images_is_kept():
    with pytest.warns(DeprecationWarning, match="n_groups"):
        config = TrainingConfig(ModelConfig(), n_images=12)
    made = MetadataManager.create_metadata(config, script_name="x")
    assert made["training_parameters"]["n_images"] == made["training_parameters"]["n_groups"] == 12


# ---- files


def test_round_trip(tmp_path, metadata):
    arrays = {
        "a": np.arange(6, dtype=np.uint16).reshape(2, 3),
        "b": np.array(1 + 2j, dtype=np.complex64),
        "c": 7,
        "name": "star",
        "objectGuess": None,
    }
    MetadataManager.save_with_metadata(tmp_path / "sub" / "data.npz", arrays, metadata)
    data, found = MetadataManager.load_with_metadata(tmp_path / "sub" / "data.npz")
    assert found == metadata and isinstance(data, dict)
    assert set(data) == {"a", "b", "c", "name"}  # without _metadata, and without what was None
    np.testing.assert_array_equal(data["a"], [[0, 1, 2], [3, 4, 5]])
    assert data["a"].dtype == np.uint16 and data["b"].dtype == np.complex64 and data["b"] == 1 + 2j
    assert data["c"] == 7 and str(data["name"]) == "star"
    assert [p.name for p in (tmp_path / "sub").iterdir()] == ["data.npz"]  # no temporary file is left


def test_metadata_is_plain_text(tmp_path, metadata):
    MetadataManager.save_with_metadata(tmp_path / "d.npz", {"a": np.zeros(2)}, metadata)
    text = stored_text(tmp_path / "d.npz")
    assert text.shape == () and text.dtype.kind == "U"
    assert json.loads(str(text)) == metadata


def test_the_suffix_is_appended_as_numpy_does(tmp_path, metadata):
    MetadataManager.save_with_metadata(str(tmp_path / "run.1"), {"a": np.zeros(2)}, metadata)
    assert [p.name for p in tmp_path.iterdir()] == ["run.1.npz"]


def test_values_that_json_does_not_know_by_itself(tmp_path, config):
    made = MetadataManager.create_metadata(
        config, script_name="x", file=Path("/a/b"), n=np.int64(3), scale=np.float32(0.5), shift=np.array([1, 2]),
        model=config.model,
    )  # fmt: skip
    MetadataManager.save_with_metadata(tmp_path / "d.npz", {}, made)
    extra = MetadataManager.load_with_metadata(tmp_path / "d.npz")[1]["additional_parameters"]
    assert (extra["file"], extra["n"], extra["scale"], extra["shift"]) == ("/a/b", 3, 0.5, [1, 2])
    assert extra["model"]["N"] == 128


def test_nothing_is_written_when_something_cannot_be_stored(tmp_path, metadata):
    cases = [
        ({"a": np.array([None])}, metadata, "a: .*pickle"),
        ({"a": {"b": 1}}, metadata, "a: found a dict"),
        ({"file": np.zeros(2)}, metadata, "Rename"),
        ({"a": np.zeros(2)}, {**metadata, "x": 1j}, "JSON cannot hold"),
        ({"a": np.zeros(2)}, {**metadata, "x": np.array([1j])}, "ndarray"),
    ]
    for data, meta, message in cases:
        with pytest.raises(InputError, match=message):
            MetadataManager.save_with_metadata(tmp_path / "d.npz", data, meta)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_save_leaves_the_old_file(tmp_path, metadata, monkeypatch):
    MetadataManager.save_with_metadata(tmp_path / "d.npz", {"a": np.arange(3)}, metadata)

    def full(stream, **arrays):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(OSError, match=r"d\.npz: No space left"):
        MetadataManager.save_with_metadata(tmp_path / "d.npz", {"a": np.zeros(9)}, metadata)
    with np.load(tmp_path / "d.npz") as npz:
        np.testing.assert_array_equal(npz["a"], np.arange(3))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_file_without_metadata(tmp_path):
    np.savez(tmp_path / "d.npz", a=np.arange(3))
    data, found = MetadataManager.load_with_metadata(tmp_path / "d.npz")
    assert found is None and list(data) == ["a"]
    np.testing.assert_array_equal(data["a"], np.arange(3))


def test_pickled_metadata_is_not_opened(tmp_path, caplog):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    bomb = np.empty((), dtype=object)
    bomb[()] = Bomb()
    np.savez(tmp_path / "d.npz", a=np.arange(3), objectGuess=bomb, _metadata=bomb)
    data, found = MetadataManager.load_with_metadata(tmp_path / "d.npz")
    assert found is None and list(data) == ["a"]
    assert "_metadata: an object array (a pickle) is never loaded" in caplog.text


@pytest.mark.parametrize(
    ("stored", "message"),
    [(np.array("{oops"), "no JSON text"), (np.array("[1, 2]"), "found a list"), (np.arange(3), "no JSON text")],
)
def test_metadata_that_is_not_an_object_is_ignored(tmp_path, caplog, stored, message):
    np.savez(tmp_path / "d.npz", _metadata=stored)
    assert MetadataManager.load_with_metadata(tmp_path / "d.npz") == ({}, None)
    assert message in caplog.text


def test_metadata_as_bytes_or_in_a_vector_of_one_is_read(tmp_path):
    for number, stored in enumerate((np.array(b'{"x": 1}'), np.array(['{"x": 1}']))):
        np.savez(tmp_path / f"{number}.npz", _metadata=stored)
        assert MetadataManager.load_with_metadata(tmp_path / f"{number}.npz")[1] == {"x": 1}


def test_unreadable_files(tmp_path):
    with pytest.raises(MissingFileError, match=r"none\.npz"):
        MetadataManager.load_with_metadata(tmp_path / "none.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(InputError, match=r"bad\.npz"):
        MetadataManager.load_with_metadata(tmp_path / "bad.npz")
    with zipfile.ZipFile(tmp_path / "odd.npz", "w") as archive:
        archive.writestr("a.npy", b"nothing that NumPy wrote")
    with pytest.raises(InputError, match=r"odd\.npz: a: "):
        MetadataManager.load_with_metadata(tmp_path / "odd.npz")


# ---- who reads it


def test_the_readers_of_scans_find_nphotons(tmp_path, scan_arrays, metadata):
    assert metadata_nphotons(metadata) == 5e8
    MetadataManager.save_with_metadata(tmp_path / "scan.npz", scan_arrays, metadata)
    raw = RawData.from_file(tmp_path / "scan.npz")
    assert raw.nphotons == 5e8 and raw.metadata == metadata
    raw.to_file(tmp_path / "again.npz")
    assert MetadataManager.load_with_metadata(tmp_path / "again.npz")[1] == metadata


def test_the_factory_finds_nphotons(tmp_path, metadata):
    from ptycho_torch.config_factory import create_training_payload
    from ptycho_torch.scan_header import stored_nphotons

    write_scan(tmp_path / "plain.npz")
    data, nothing = MetadataManager.load_with_metadata(tmp_path / "plain.npz")
    assert nothing is None
    MetadataManager.save_with_metadata(tmp_path / "scan.npz", data, metadata)
    assert stored_nphotons(tmp_path / "scan.npz") == 5e8
    payload = create_training_payload(tmp_path / "scan.npz", tmp_path / "out", overrides={"n_groups": 8})
    assert payload.tf_training_config.nphotons == 5e8
    plain = create_training_payload(tmp_path / "plain.npz", tmp_path / "out", overrides={"n_groups": 8})
    assert plain.tf_training_config.nphotons == 1e9


# ---- comparing and merging


def test_get_nphotons():
    assert MetadataManager.get_nphotons({"physics_parameters": {"nphotons": 2e7}}) == 2e7
    for unknown in (None, {}, {"physics_parameters": {}}, {"physics_parameters": {"nphotons": "many"}}):
        assert MetadataManager.get_nphotons(unknown) == 1e9
        assert MetadataManager.get_nphotons(unknown, default=3.0) == 3.0


def test_validate_parameters(metadata, config):
    assert MetadataManager.validate_parameters(metadata, config) == []
    config.nphotons = 6e8
    config.model.N = 64
    config.model.gridsize = 1
    found = MetadataManager.validate_parameters(metadata, config)
    assert [line.split(":")[0] for line in found] == ["nphotons", "N", "gridsize"]
    assert "500000000.0" in found[0] and "600000000.0" in found[0]
    assert "128" in found[1] and "64" in found[1]
    # a ModelConfig has no nphotons, and what is not stored is not compared
    assert MetadataManager.validate_parameters(metadata, ModelConfig(N=128, gridsize=2)) == []
    assert MetadataManager.validate_parameters(None, config) == MetadataManager.validate_parameters({}, config) == []


@pytest.mark.parametrize(("difference", "faults"), [(5e-10, 0), (2e-9, 1)])
def test_nphotons_may_differ_by_rounding(difference, faults):
    metadata = {"physics_parameters": {"nphotons": 1.0}}
    config = TrainingConfig(ModelConfig(), nphotons=1.0 + difference)
    assert len(MetadataManager.validate_parameters(metadata, config)) == faults


def test_transformation_records(metadata):
    returned = MetadataManager.add_transformation_record(metadata, "crop.py", "crop", {"N": 64})
    MetadataManager.add_transformation_record(metadata, "sub.py", "subsample", {"n": 5})
    assert returned is metadata
    records = metadata["data_transformations"]
    assert [(r["tool"], r["operation"], r["parameters"]) for r in records] == [
        ("crop.py", "crop", {"N": 64}),
        ("sub.py", "subsample", {"n": 5}),
    ]
    assert all(datetime.fromisoformat(r["timestamp"]) for r in records)
    assert len(MetadataManager.add_transformation_record({}, "a", "b")["data_transformations"]) == 1


def test_merge_preserves_the_first(metadata):
    MetadataManager.add_transformation_record(metadata, "a.py", "crop", {})
    other = MetadataManager.create_metadata(TrainingConfig(ModelConfig(N=64), nphotons=1e3), script_name="b.py")
    MetadataManager.add_transformation_record(other, "b.py", "flip", {})
    merged = MetadataManager.merge_metadata([None, metadata, other], "preserve_first")
    assert merged["physics_parameters"]["nphotons"] == 5e8
    assert merged["creation_info"] == metadata["creation_info"]
    assert [r["operation"] for r in merged["data_transformations"]] == ["crop", "flip", "merge"]
    assert len(metadata["data_transformations"]) == 1  # the originals are left alone
    assert MetadataManager.merge_metadata([]) == MetadataManager.merge_metadata([None]) == {}


def test_merge_validates(metadata, config):
    same = MetadataManager.create_metadata(config, script_name="other.py")
    merged = MetadataManager.merge_metadata([metadata, same], "validate_consistent")
    assert merged["creation_info"]["script"] == "simulate.py"
    config.model.N = 64
    other = MetadataManager.create_metadata(config, script_name="other.py")
    with pytest.raises(InputError, match=r"N = 64 .*128"):
        MetadataManager.merge_metadata([metadata, same, other], "validate_consistent")
    with pytest.raises(InputError, match="preserve_first"):
        MetadataManager.merge_metadata([metadata], "newest")
