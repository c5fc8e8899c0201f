"""Figures and pictures of object patches."""

import json

import numpy as np
import pytest

from ptycho.errors import InputError
from ptycho_torch.patch_stats import write_patch_stats


@pytest.fixture
def patches(rng):
    levels = np.array([[1.0, 2.0], [3.0, 3.0], [0.5, 1.0]])[..., None, None]
    noise = 0.1 * rng.normal(size=(3, 2, 8, 8))
    return ((levels + noise) * np.exp(1j * rng.normal(size=(3, 2, 8, 8)))).astype(np.complex64)


def read(folder):
    return json.loads((folder / "analysis" / "torch_patch_stats.json").read_text())


def test_the_figures_are_those_of_the_amplitude(patches, tmp_path):
    write_patch_stats(patches, tmp_path / "run")
    entries = read(tmp_path / "run")
    assert [entry["index"] for entry in entries] == [0, 1, 2] and entries[0]["shape"] == [2, 8, 8]
    amplitude = np.abs(patches.astype(np.complex128))
    for entry, group in zip(entries, amplitude, strict=True):
        assert entry["global_mean"] == pytest.approx(group.mean())
        assert entry["global_std"] == pytest.approx(group.std())
        assert entry["var_zero_mean"] == pytest.approx(np.mean([patch.var() for patch in group]))
    # levels that differ within a group count in the one and not in the other
    assert entries[0]["global_std"] ** 2 > 10 * entries[0]["var_zero_mean"] > 0
    picture = (tmp_path / "run" / "analysis" / "torch_patch_grid.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 1000
    assert sorted(p.name for p in (tmp_path / "run" / "analysis").iterdir()) == [
        "torch_patch_grid.png", "torch_patch_stats.json",
    ]  # fmt: skip


def test_constants_have_no_variance(tmp_path):
    levels = np.arange(1, 5, dtype=np.complex64).reshape(1, 4, 1, 1)
    write_patch_stats(np.broadcast_to(levels, (1, 4, 6, 6)), tmp_path)
    assert read(tmp_path)[0]["var_zero_mean"] == 0 and read(tmp_path)[0]["global_mean"] == 2.5


@pytest.mark.parametrize(("limit", "expected"), [(1, 1), (2, 2), (50, 3), (None, 3)])
def test_the_limit_is_one_on_groups(patches, tmp_path, limit, expected):
    write_patch_stats(patches, tmp_path, limit)
    assert len(read(tmp_path)) == expected


def test_numbers_that_json_does_not_know(patches, tmp_path):
    patches[1, 0, 0, 0] = np.nan
    write_patch_stats(patches, tmp_path)
    entries = read(tmp_path)
    assert entries[1]["global_mean"] is None and entries[0]["global_mean"] is not None


def test_no_pyplot(patches, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # importing it would fail
    write_patch_stats(patches, tmp_path)
    assert (tmp_path / "analysis" / "torch_patch_grid.png").stat().st_size > 0


@pytest.mark.parametrize(("shape", "limit", "text"), [((0, 1, 8, 8), None, r"\(0, 1, 8, 8\)"),
                                                      ((4, 8, 8), None, r"\(n, C, N, N\)"),
                                                      ((1, 1, 8, 8), 0, "must be positive")])  # fmt: skip
def test_what_is_refused(tmp_path, shape, limit, text):
    with pytest.raises(InputError, match=text):
        write_patch_stats(np.ones(shape, np.complex64), tmp_path / "out", limit)
    assert not (tmp_path / "out").exists()
