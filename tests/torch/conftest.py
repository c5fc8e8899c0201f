"""Files that the tests of the factories share."""

import pytest
from small_scans import write_scan


@pytest.fixture
def scan_file(tmp_path):
    return write_scan(tmp_path / "train.npz")


@pytest.fixture
def model_folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "wts.h5.zip").touch()
    return folder
