"""Networks: what they start from, what they can see, and how they are found."""

import pytest
import torch
from small_scans import small_scan

from ptycho.config.config import ModelConfig as PublicModelConfig
from ptycho.config.config import TrainingConfig
from ptycho.errors import InputError
from ptycho_torch.calibration import scaled_guess
from ptycho_torch.config_params import DataConfig, ModelConfig
from ptycho_torch.config_params import TrainingConfig as TorchTrainingConfig
from ptycho_torch.data.scans import PlacedScan
from ptycho_torch.generators.base import ByParts
from ptycho_torch.generators.projection_unet import (
    ProjectionUNet,
    apply_correction,
    correction_features,
)
from ptycho_torch.generators.registry import available, build_generator, register, resolve_generator
from ptycho_torch.generators.unet import UNet
from ptycho_torch.model import PtychoPINN_Lightning
from ptycho_torch.physics.illumination import confidence
from ptycho_torch.reassembly import StreamedFrames


def test_an_unknown_architecture_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match=r"projection_unnet.*did you mean 'projection_unet'"):
        build_generator(ModelConfig(architecture="projection_unnet"), 64)
    assert available() == ("cnn", "projection_unet")


def test_a_taken_name_is_refused():
    with pytest.raises(ValueError, match="registered already"):
        register("projection_unet", lambda config, side: build_generator(config, side))


def test_the_published_network_by_its_name():
    config = ModelConfig(architecture="cnn", n_filters_scale=1.0, C_model=4, C_forward=4, batch_norm=True)
    found = build_generator(config, 64)
    assert found.name == "cnn" and found.autoencoder.encoder.blocks[0].conv1.weight.shape[1] == 4
    apart = build_generator(ModelConfig(architecture="cnn", object_big=False, C_model=4, C_forward=4), 64)
    assert apart.autoencoder.n_channels == 1
    with pytest.raises(InputError, match="N=32, expected one of 64, 128, 256"):
        build_generator(config, 32)


def test_architectures_for_callers_that_build_by_name():
    assert resolve_generator(TrainingConfig(PublicModelConfig(architecture="cnn"))).name == "cnn"
    with pytest.raises(ValueError, match="architecture 'unknown' is not available"):
        resolve_generator(TrainingConfig(PublicModelConfig(architecture="unknown")))


def test_the_configuration_shapes_the_network():
    small = build_generator(ModelConfig(unet_channels=4, stages=3, projection_steps=7, later_projection_steps=2), 64)
    assert isinstance(small, ProjectionUNet)
    assert (small.stages, small.begin_steps, small.later_steps) == (3, 7, 2)
    assert len(small.correctors) == 2, "stages after the second share its weights"
    assert small.correctors[0].encoder[0].first.out_channels == 4


@pytest.mark.parametrize("shape", [(32, 32), (45, 37), (64, 90)])
def test_the_unet_takes_any_size_and_starts_at_zero(shape):
    net = UNet(5, 2, (4, 8, 12))
    assert net(torch.randn(2, 5, *shape)).shape == (2, 2, *shape)
    assert net(torch.randn(1, 5, *shape)).abs().max() == 0


def test_the_unet_starts_with_weights_that_carry_its_input():
    """As strong behind the deepest layer and the last one as before the first: white noise, whole and averaged."""
    torch.manual_seed(0)
    net, noise = UNet(5, 2, (16, 32, 48)), torch.randn(2, 5, 96, 96)
    seen = {}
    for name, block in (("deepest", net.encoder[-1]), ("last", net.decoder[-1])):
        block.register_forward_hook(lambda module, given, made, name=name: seen.update({name: made}))
    with torch.no_grad():
        net(noise)
        at_first = net.encoder[0].first(noise).square().mean()
    assert at_first == pytest.approx(2.81, rel=0.2), "what SiLU halves and more is to come out at one"
    for name, made in seen.items():
        assert 0.2 < made.square().mean().sqrt() < 1.5, name
        own = made - made.mean(dim=(0, 2, 3), keepdim=True)
        assert own.square().mean().sqrt() > 0.1, f"{name}: depends on the image"


def test_the_unet_sees_no_farther_than_its_halo():
    torch.manual_seed(0)
    net = UNet(1, 1, (4, 4, 4))
    torch.nn.init.normal_(net.head.weight)
    image = torch.zeros(1, 1, 160, 160, requires_grad=True)
    net(image)[0, 0, 81, 79].backward()
    rows, cols = image.grad[0, 0].nonzero(as_tuple=True)
    reach = max((rows - 81).abs().max(), (cols - 79).abs().max())
    assert 10 < reach <= net.halo_px
    assert net.halo_px % net.stride == 0


def test_the_correction_is_bounded_and_zero_changes_nothing():
    canvas = torch.polar(torch.rand(1, 8, 8) + 0.5, torch.rand(1, 8, 8))
    torch.testing.assert_close(apply_correction(canvas, torch.zeros(1, 2, 8, 8)), canvas)
    far = apply_correction(canvas, torch.full((1, 2, 8, 8), 1e6)) / canvas
    torch.testing.assert_close(far.abs(), torch.full((1, 8, 8), 7.389056))
    assert torch.isfinite(far).all()


def test_vacuum_without_light_gives_no_features():
    canvas = torch.ones(1, 8, 8, dtype=torch.complex64)
    assert correction_features(canvas, canvas, torch.zeros(1, 8, 8)).abs().max() == 0


@pytest.mark.parametrize(("architecture", "share"), [("projection_unet", 1.0), ("cnn", 0.2)])
def test_the_optimiser_takes_the_share_of_the_rate_that_the_network_wants(architecture, share):
    config = ModelConfig(architecture=architecture, n_filters_scale=1)
    module = PtychoPINN_Lightning(config, DataConfig(N=64), TorchTrainingConfig(learning_rate=0.5))
    assert module.configure_optimizers().param_groups[0]["lr"] == share * 0.5


@pytest.mark.parametrize("architecture", ["projection_unet", "cnn"])
def test_weights_are_channels_last(architecture):
    generator = build_generator(ModelConfig(architecture=architecture), 64)
    kernels = [p for p in generator.parameters() if p.ndim == 4]
    assert kernels and all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


def wild_unet():
    torch.manual_seed(0)
    net = UNet(5, 2, (4, 8, 12))
    torch.nn.init.normal_(net.head.weight)
    return net.eval()


@pytest.mark.parametrize("shape", [(32, 48), (45, 37)])
def test_the_mean_of_turns_turns_with_the_object(shape):
    """To the grid in which it pools: an object of whole steps turns exactly, any other is padded first."""
    net, image = wild_unet(), torch.randn(1, 5, *shape)
    with torch.no_grad():
        found = net.mean_of_turns(image)
        assert found.shape == (1, 2, *shape)
        padded = torch.nn.functional.pad(image, (0, -shape[1] % 4, 0, -shape[0] % 4))
        turned = net.mean_of_turns(padded.rot90(1, (-2, -1))).rot90(-1, (-2, -1))
        torch.testing.assert_close(turned[..., : shape[0], : shape[1]], found, rtol=1e-4, atol=1e-5)
        one = net(image)
    assert (found - one).abs().max() > 0.01 * one.abs().max(), "one turn alone is another result"


@pytest.mark.parametrize(("training", "begin", "turned"), [(True, 3, False), (False, 3, True), (False, None, False)])
def test_inference_takes_the_mean_of_turns_unless_it_is_to_be_coarse(training, begin, turned):
    raw = small_scan(40)
    frames = StreamedFrames(PlacedScan.of(raw), torch.from_numpy(scaled_guess(raw)), torch.from_numpy(raw.good_pixels))
    torch.manual_seed(0)
    generator = ProjectionUNet(1, projection_steps=3, later_projection_steps=0, widths=(4, 8, 12)).train(training)
    net = generator.correctors[0]
    torch.nn.init.normal_(net.head.weight)
    if begin is None:
        generator.project_first(ByParts(3))
    with torch.no_grad():
        found, lit = generator(frames), frames.illumination()
        canvas = frames.begin(3 if begin else ByParts(3))
        features = correction_features(canvas, frames.vacuum(), lit)
        expected, other = (net.mean_of_turns(features), net(features))[:: 1 if turned else -1]
        for correction, is_so in ((expected, True), (other, False)):
            made = apply_correction(canvas, correction * confidence(lit)[:, None])
            assert torch.allclose(found, made, atol=1e-4) is is_so
