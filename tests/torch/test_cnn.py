"""The published network: its size, its heads, its border, its attention."""

import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from ptycho.errors import InputError
from ptycho_torch.generators.cnn import (
    ChannelGate,
    CnnAutoencoder,
    ConvBlock,
    EfficientChannelGate,
    SpatialGate,
    amplitude_head,
    phase_head,
)

ACTIVATIONS = ("sigmoid", "softplus", "swish", "silu", "relu")
ATTENTION = ("cbam_encoder", "cbam_bottleneck", "cbam_decoder", "eca_encoder", "eca_decoder", "spatial_decoder")
SMALL = {"n_side": 64, "n_filters_scale": 0.25}

# N, n_filters_scale, gridsize, CBAM in the encoder -> parameters of the encoder, of one decoder, of all
PUBLISHED = [
    (64, 2, 1, True, 1_155_778, 592_057, 2_339_892),
    (64, 2, 2, True, 1_157_506, 597_112, 2_351_730),
    (64, 2, 1, False, 1_144_256, 592_057, 2_328_370),
    (64, 2, 2, False, 1_145_984, 597_112, 2_340_208),
    (64, 1, 1, True, 289_652, 148_569, 586_790),
    (64, 1, 2, True, 290_516, 151_032, 592_580),
    (128, 2, 1, True, 1_183_462, 1_772_217, 4_727_896),
    (128, 2, 2, True, 1_184_326, 1_777_272, 4_738_870),
    (128, 1, 1, True, 296_599, 443_737, 1_184_073),
    (128, 1, 2, True, 297_031, 446_200, 1_189_431),
    (256, 2, 1, True, 1_190_409, 5_902_009, 12_994_427),
]


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def randomise(module):
    """Random numbers for the layers that start at zero, so that every part has something to say."""
    for layer in module.modules():
        if isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Linear)) and layer.weight.abs().max() == 0:
            for parameter in layer.parameters():
                nn.init.normal_(parameter, std=0.1)
    return module


def network(seed=0, **options):
    """A small network with random weights everywhere."""
    torch.manual_seed(seed)
    return randomise(CnnAutoencoder(**{**SMALL, **options}))


def frames(*shape, seed=1):
    """Amplitudes with a mean energy of (N/2)^2 per frame, brightest in the middle."""
    rng = np.random.default_rng(seed)
    n = shape[-1]
    radius = np.hypot(*np.meshgrid(np.arange(n) - n // 2, np.arange(n) - n // 2))
    found = rng.uniform(0, 1, shape) * np.exp(-radius / (n / 8))
    found *= n / 2 / np.sqrt((found**2).sum((-2, -1)).mean())
    return torch.from_numpy(found).float()


def centre(n):
    mask = torch.zeros(n, n, dtype=torch.bool)
    mask[n // 4 : n // 4 + n // 2, n // 4 : n // 4 + n // 2] = True
    return mask


@pytest.mark.parametrize(("n", "scale", "gridsize", "cbam", "encoder", "decoder", "total"), PUBLISHED)
def test_it_has_the_published_number_of_parameters(n, scale, gridsize, cbam, encoder, decoder, total):
    net = CnnAutoencoder(n_side=n, n_channels=gridsize**2, n_filters_scale=scale, cbam_encoder=cbam)
    assert (count(net.encoder), count(net.decoder_amp), count(net)) == (encoder, decoder, total)
    assert count(net.decoder_phase) == decoder
    assert net.encoder.blocks[0].conv1.weight.shape[1] == gridsize**2


@pytest.mark.parametrize("n", [64, 128, 256])
@pytest.mark.parametrize("gridsize", [1, 2])
def test_shapes(n, gridsize):
    net = network(n_side=n, n_channels=gridsize**2)
    x = frames(2, gridsize**2, n, n)
    assert net.encoder(x).shape[-2:] == (8, 8)
    for part in net(x):
        assert part.shape == x.shape and part.dtype == torch.float32


@pytest.mark.parametrize("probe_big", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_training_begins_at_vacuum(activation, probe_big):
    torch.manual_seed(0)
    net = CnnAutoencoder(**SMALL, amp_activation=activation, probe_big=probe_big)
    amplitude, phase = net(frames(2, 1, 64, 64))
    torch.testing.assert_close(amplitude, torch.ones_like(amplitude))
    assert phase.abs().max() == 0


@pytest.mark.parametrize("n", [64, 128])
def test_a_new_network_sees_the_difference_between_frames(n):
    """Features must depend on the frame; with torch's own initialisation they do not, see the module."""
    torch.manual_seed(0)
    net = CnnAutoencoder(n_side=n, n_filters_scale=1)
    with torch.no_grad():
        x = net.encoder(frames(8, 1, n, n) * torch.linspace(0.5, 1.5, 8)[:, None, None, None])
        for block in net.decoder_phase.blocks:
            x = block(x)
    assert x.std(0).square().mean().sqrt() > 0.05 * x.square().mean().sqrt()


def test_the_first_steps_move_both_heads():
    torch.manual_seed(0)
    net = CnnAutoencoder(**SMALL)
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-2)
    for _ in range(2):
        optimiser.zero_grad()
        amplitude, phase = net(frames(2, 1, 64, 64))
        (amplitude - 0.5).square().add((phase - 0.2).square()).mean().backward()
        optimiser.step()
    for block in (net.encoder.blocks[0], net.decoder_amp.blocks[0], net.decoder_phase.blocks[0]):
        assert block.conv1.weight.grad.abs().max() > 0


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "SiLU"])
def test_the_amplitude_is_positive_rises_and_is_one_at_zero(activation):
    assert float(amplitude_head(torch.zeros(()), activation)) == pytest.approx(1.0, abs=1e-6)
    found = amplitude_head(torch.linspace(-300, 300, 6001), activation)
    assert found.min() > 0 and torch.isfinite(found).all()
    assert (found.diff() >= 0).all()
    near = amplitude_head(torch.linspace(-0.9, 0.9, 50), activation)
    assert (near.diff() > 0).all()


def test_amplitude_curves_by_hand():
    for z in (-3.0, -0.4, 0.7, 2.0):
        softplus = math.log(1 + math.exp(z) * (math.e - 1))
        expected = {"sigmoid": 2 / (1 + math.exp(-z)), "relu": max(1 + z, 1e-6)}
        for activation in ACTIVATIONS:
            found = float(amplitude_head(torch.tensor(z), activation))
            assert found == pytest.approx(expected.get(activation, softplus), rel=1e-6)


def test_the_phase_is_bounded():
    found = phase_head(torch.tensor([-1e9, -1.0, 0.0, 1.0, 1e9]))
    expected = [-math.pi, -math.pi * math.tanh(1), 0.0, math.pi * math.tanh(1), math.pi]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_an_object_with_more_than_a_turn_of_phase_can_be_represented():
    """The head cannot give a range above 2 pi, and need not: only exp(i phase) enters the physics."""
    ramp = torch.linspace(0.1, 6 * math.pi, 64, dtype=torch.float64)
    wrapped = torch.remainder(ramp + math.pi, 2 * math.pi) - math.pi
    z = torch.atanh((wrapped / math.pi).clamp(-1 + 1e-12, 1 - 1e-12))
    found = phase_head(z)
    assert found.max() - found.min() <= 2 * math.pi < ramp.max() - ramp.min()
    unit = torch.ones_like(ramp)
    torch.testing.assert_close(torch.polar(unit, found), torch.polar(unit, ramp))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_no_weights_break_the_heads(activation):
    """Large weights everywhere, the border's included: the ranges hold on every pixel."""
    net = network(amp_activation=activation)
    with torch.no_grad():
        for decoder in (net.decoder_amp, net.decoder_phase):
            for conv in (decoder.last.inner, decoder.last.outer):
                conv.weight *= 1e4
    amplitude, phase = net(frames(2, 1, 64, 64))
    assert amplitude.min() > 0 and torch.isfinite(amplitude).all()
    assert phase.abs().max() <= math.pi + 1e-6
    assert phase[..., ~centre(64)].abs().max() > 3, "the border was tried as well"


@pytest.mark.parametrize("part", ["inner", "outer"])
@pytest.mark.parametrize("n", [64, 128])
def test_centre_and_border_are_apart(part, n):
    """The central N/2 square depends on the inner convolution only, all other pixels on the outer branch only."""
    net = network(n_side=n)
    x = frames(1, 1, n, n)
    before = torch.stack(net(x))
    with torch.no_grad():
        for decoder in (net.decoder_amp, net.decoder_phase):
            getattr(decoder.last, part).weight.add_(0.05)
            getattr(decoder.last, part).bias.add_(0.1)
    changed = torch.stack(net(x)) != before
    own = centre(n) if part == "inner" else ~centre(n)
    assert not changed[..., ~own].any()
    assert changed[..., own].float().mean() > 0.99


def test_without_probe_big_the_border_is_vacuum_and_no_channel_is_wasted():
    net = network(probe_big=False)
    amplitude, phase = net(frames(1, 1, 64, 64))
    border = ~centre(64)
    torch.testing.assert_close(amplitude[..., border], torch.ones_like(amplitude[..., border]))
    assert phase[..., border].abs().max() == 0
    assert (phase[..., centre(64)] != 0).all()
    assert net.decoder_amp.last.inner.in_channels == 8
    amplitude.sum().backward()
    assert (net.decoder_amp.blocks[-1].conv2.weight.grad.abs().amax((1, 2, 3)) > 0).sum() >= 6


@pytest.mark.parametrize("option", ATTENTION)
def test_attention_that_is_switched_on_acts(option):
    plain = network(cbam_encoder=False)
    gated = network(**{"cbam_encoder": False, option: True})
    missing, unexpected = gated.load_state_dict(plain.state_dict(), strict=False)
    assert missing and not unexpected, "the same network but for its gates"
    x = frames(2, 1, 64, 64)
    decoders_only = "decoder" in option
    assert torch.equal(gated.bottleneck(gated.encoder(x)), plain.encoder(x)) is decoders_only
    for with_gates, without in zip(gated(x), plain(x), strict=True):
        assert (with_gates - without).abs().max() > 1e-4


def test_attention_begins_as_none():
    """All gates at 1/2 and the convolutions before them twice as strong: the features are those without gates."""
    gated = network(**dict.fromkeys(ATTENTION, True))
    plain = network(cbam_encoder=False)
    fresh = CnnAutoencoder(**SMALL, **dict.fromkeys(ATTENTION, True))
    assert len(fresh.encoder.blocks[0].attention) == 3 and len(fresh.decoder_amp.blocks[0].attention) == 4
    fresh.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        for block in (*fresh.encoder.blocks, *fresh.decoder_amp.blocks, *fresh.decoder_phase.blocks):
            block.conv2.weight *= 2.0 ** len(block.attention)
    x = frames(2, 1, 64, 64)
    torch.testing.assert_close(fresh.encoder(x), plain.encoder(x))
    ratio = gated.encoder.blocks[0].conv2.weight.std() / plain.encoder.blocks[0].conv2.weight.std()
    assert 6 < ratio < 10, "drawn three gates' worth stronger"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("batch_norm", [False, True])
def test_gradients_reach_every_parameter(batch_norm, seed):
    options = dict.fromkeys(ATTENTION, True)
    net = network(seed, n_channels=4, n_filters_scale=2, batch_norm=batch_norm, **options)
    amplitude, phase = net(frames(3, 4, 64, 64))
    (amplitude.square().sum() + phase.square().sum()).backward()
    silent = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert silent == []


def test_batch_norm_leaves_the_amplitude_decoder_alone():
    def has_norm(part):
        return any(isinstance(module, nn.BatchNorm2d) for module in part.modules())

    net = CnnAutoencoder(**SMALL, batch_norm=True)
    assert has_norm(net.encoder) and has_norm(net.decoder_phase) and not has_norm(net.decoder_amp)
    assert not has_norm(CnnAutoencoder(**SMALL))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_channel_attention_by_hand():
    torch.manual_seed(0)
    gate = randomise(ChannelGate(32)).double()
    x = torch.randn(2, 32, 5, 6, dtype=torch.float64)
    first, second = gate.mlp[0], gate.mlp[2]
    assert first.out_features == 2

    def mlp(vector):
        hidden = np.maximum(first.weight.detach().numpy() @ vector + first.bias.detach().numpy(), 0)
        return second.weight.detach().numpy() @ hidden + second.bias.detach().numpy()

    for picture, found in zip(x.numpy(), gate(x).detach().numpy(), strict=True):
        factor = sigmoid(mlp(picture.mean((1, 2))) + mlp(picture.max((1, 2))))
        np.testing.assert_allclose(found, picture * factor[:, None, None], rtol=1e-10)


@pytest.mark.parametrize("kernel", [3, 7])
def test_spatial_attention_by_hand(kernel):
    torch.manual_seed(0)
    gate = randomise(SpatialGate(kernel)).double()
    x = torch.randn(1, 4, 6, 7, dtype=torch.float64)
    picture, weight, half = x[0].numpy(), gate.conv.weight[0].detach().numpy(), kernel // 2
    padded = np.pad(np.stack((picture.max(0), picture.mean(0))), ((0, 0), (half, half), (half, half)))
    expected = np.empty_like(picture)
    for i in range(6):
        for j in range(7):
            total = (padded[:, i : i + kernel, j : j + kernel] * weight).sum()
            expected[:, i, j] = picture[:, i, j] * sigmoid(total)
    np.testing.assert_allclose(gate(x)[0].detach().numpy(), expected, rtol=1e-10)


def test_efficient_channel_attention_by_hand():
    torch.manual_seed(0)
    gate = randomise(EfficientChannelGate()).double()
    x = torch.randn(1, 6, 4, 5, dtype=torch.float64)
    weight = gate.conv.weight[0, 0].detach().numpy()
    means = np.concatenate(([0.0], x[0].numpy().mean((1, 2)), [0.0]))
    for channel in range(6):
        factor = sigmoid(sum(weight[k] * means[channel + k] for k in range(3)))
        np.testing.assert_allclose(gate(x)[0, channel].detach(), x[0, channel] * factor, rtol=1e-10)


def test_a_float_scale_gives_whole_widths():
    assert count(CnnAutoencoder(n_side=64, n_filters_scale=1.0)) == 586_790
    odd = CnnAutoencoder(n_side=64, n_filters_scale=0.3)
    assert [block.conv2.out_channels for block in odd.encoder.blocks] == [10, 19, 38]
    narrow = CnnAutoencoder(n_side=256, n_filters_scale=0.25)  # 2 channels: fewer than the gate's reduction
    assert torch.isfinite(narrow(frames(1, 1, 256, 256))[0]).all()


def test_the_older_rule_for_the_channels_of_the_border():
    net = CnnAutoencoder(
        n_side=64, n_filters_scale=2, decoder_last_c_outer_fraction=0.25, use_legacy_decoder_channel_override=True
    )
    assert net.decoder_amp.last.inner.in_channels == 48
    assert net.decoder_amp.last.outer_block.conv1.in_channels == 16
    plain = CnnAutoencoder(n_side=64, n_filters_scale=2, decoder_last_c_outer_fraction=0.25)
    assert plain.decoder_amp.last.outer_block.conv1.in_channels == 1, "the fraction acts with the override only"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_side": 96}, r"N=96, expected one of 64, 128, 256"),
        ({"n_channels": 0}, r"n_channels=0"),
        ({"n_filters_scale": 0}, r"n_filters_scale=0"),
        ({"n_filters_scale": float("nan")}, r"n_filters_scale=nan"),
        ({"amp_activation": "tanh"}, r"'tanh', expected one of sigmoid, softplus, swish, silu, relu"),
        ({"spatial_decoder": True, "decoder_spatial_kernel": 4}, r"decoder_spatial_kernel: found 4.*odd"),
        ({"n_channels": 8}, r"8 frames.*8 channels.*Raise n_filters_scale, lower gridsize"),
        (
            {"use_legacy_decoder_channel_override": True, "decoder_last_c_outer_fraction": 1.5},
            r"decoder_last_c_outer_fraction: found 1.5",
        ),
    ],
)
def test_what_cannot_be_built_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        CnnAutoencoder(**{**SMALL, **options})


@pytest.mark.parametrize("shape", [(2, 4, 64, 64), (2, 1, 128, 128), (1, 64, 64)])
def test_frames_of_another_shape_are_refused(shape):
    with pytest.raises(InputError, match=r"expected .*\(1, 64, 64\)"):
        network()(torch.zeros(shape))


def test_half_precision_inside_single_outside():
    net = network()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = net(frames(2, 1, 64, 64))
    for half, single in zip(found, net(frames(2, 1, 64, 64)), strict=True):
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, single, rtol=0.1, atol=0.1)


def test_it_can_be_sent_to_another_process_and_holds_weights_only():
    net = network(amp_activation="relu", **dict.fromkeys(ATTENTION, True))
    copy = pickle.loads(pickle.dumps(net))
    x = frames(1, 1, 64, 64)
    assert torch.equal(torch.stack(copy(x)), torch.stack(net(x)))
    assert dict(net.named_buffers()) == {}
    assert not any(p.is_complex() for p in net.parameters())
    assert isinstance(net.encoder.blocks[0], ConvBlock)
