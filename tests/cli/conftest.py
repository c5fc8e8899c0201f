"""A scan on disk and a made-up backend, for all tests of the command line."""

import pytest
from runs import small_scan, use_made_up_backend


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("scan") / "scan.npz"
    small_scan().to_file(path)
    return path


@pytest.fixture
def backend(monkeypatch):
    return use_made_up_backend(monkeypatch)
