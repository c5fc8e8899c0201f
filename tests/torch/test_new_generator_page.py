"""The page on new generators: its code runs, in its order, and does what the page says."""

import re
from pathlib import Path

import pytest
import torch

from ptycho.errors import InputError
from ptycho_torch.archive import load_model
from ptycho_torch.config_params import ModelConfig
from ptycho_torch.generators import registry
from ptycho_torch.model import PtychoPINN_Lightning

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/new_generator.md"


def blocks():
    """(line, code) of the Python blocks."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.finditer(r"```python\n(.*?)```", text, re.DOTALL)
    return [(text.count("\n", 0, match.start(1)), match.group(1)) for match in found]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """What the blocks leave behind, and the folder they ran in."""
    folder = tmp_path_factory.mktemp("page")
    names = {"__name__": "document"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(registry, "_BUILDERS", dict(registry._BUILDERS))
        for line, code in blocks():
            exec(compile("\n" * line + code, str(PAGE), "exec"), names)
        yield names, folder


def test_it_trains_and_is_compared_with_what_it_starts_from(page):
    names, folder = page
    assert list(names["outcome"].stages) == ["projection", "network"]
    assert (folder / "results" / "wts.h5.zip").is_file()
    stages = names["outcome"].stages
    assert abs(stages["network"].object - stages["projection"].object).max() > 1e-4
    assert stages["network"].deviance < stages["projection"].deviance, "the page says that it adds something"


def test_its_archive_loads_while_the_name_is_registered(page, monkeypatch):
    names, folder = page
    assert names["other"].result.object.ndim == 2
    module, _ = load_model(folder / "results")
    assert isinstance(module, PtychoPINN_Lightning) and module.generator.name == "residual"
    monkeypatch.setattr(registry, "_BUILDERS", {k: v for k, v in registry._BUILDERS.items() if k != "residual"})
    with pytest.raises(InputError, match=r"'residual' is not available.*projection_unet"):
        load_model(folder / "results")


def test_tiles_change_nothing(page, monkeypatch):
    """As frames.apply cuts a large canvas."""
    names, _ = page
    from ptycho.diffsim import simulate_demo_scan
    from ptycho_torch import reassembly
    from ptycho_torch.data.scans import PlacedScan

    network = names["ResidualStack"](3, 2, width=4, blocks=2)
    torch.nn.init.normal_(network.last.weight)
    raw = simulate_demo_scan(0, n_frames=60, N=32)
    frames = reassembly.StreamedFrames(
        PlacedScan.of(raw), torch.from_numpy(raw.probe), torch.ones(32, 32, dtype=torch.bool)
    )
    features = torch.randn(1, 3, *frames.vacuum().shape[-2:])
    whole = frames.apply(network, features, halo_px=network.halo_px)
    monkeypatch.setattr(reassembly, "TILE_PX", 24)
    torch.testing.assert_close(frames.apply(network, features, halo_px=network.halo_px), whole)
    torch.testing.assert_close(network(features), whole)


def test_the_page_names_all_operations():
    """The table is the whole of the protocol."""
    from ptycho_torch.generators.base import FramesOnCanvas

    operations = {name for name in vars(FramesOnCanvas) if not name.startswith("_")}
    told = set(re.findall(r"^\| `frames\.(\w+)\(", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert told == operations


def test_the_second_way_to_register_works():
    text = PAGE.read_text(encoding="utf-8")
    assert 'register("residual_deep", lambda config, side:' in " ".join(text.split())
    assert ModelConfig().projection_steps >= 1
