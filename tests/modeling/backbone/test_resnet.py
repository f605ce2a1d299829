"""ResNet bodies against torchvision's, and what configurations ask of them."""

from functools import partial

import pytest
import torch
import torchvision
from torch import nn

from maskrcnn_benchmark.config import get_cfg
from maskrcnn_benchmark.layers.deformable import DFConv2d
from maskrcnn_benchmark.layers.norm import FrozenBatchNorm2d
from maskrcnn_benchmark.modeling.backbone.blocks import BottleneckSettings
from maskrcnn_benchmark.modeling.backbone.resnet import ResNet, ResNetHead, stage_geometries


def with_statistics(network: nn.Module) -> nn.Module:
    """Statistics and weights of batch norms that are not the identity, as after training."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def from_torchvision(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        key if key.startswith("layer") else f"stem.{key}": value
        for key, value in state.items()
        if not key.startswith("fc.")
    }


@pytest.mark.parametrize(("groups", "width_per_group"), [(1, 64), (32, 4)])
def test_outputs_equal_torchvisions(groups, width_per_group):
    reference = with_statistics(
        torchvision.models.ResNet(
            torchvision.models.resnet.Bottleneck, [3, 4, 6, 3], groups=groups, width_per_group=width_per_group
        )
    )
    norm = partial(FrozenBatchNorm2d, eps=1e-5)
    body = ResNet(
        stage_geometries((3, 4, 6, 3), bottleneck_channels=groups * width_per_group),
        BottleneckSettings(norm, num_groups=groups, stride_in_1x1=False),
        stem_norm=norm,
        return_stages=(1, 2, 3, 4),
    )
    body.load_state_dict(from_torchvision(reference.state_dict()))
    images = torch.randn(2, 3, 97, 131)
    expected = reference.maxpool(reference.relu(reference.bn1(reference.conv1(images))))
    with torch.no_grad():
        outputs = body(images)
        for number, output in enumerate(outputs, start=1):
            expected = getattr(reference, f"layer{number}")(expected)
            torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
    assert [tuple(output.shape[1:]) for output in outputs] == [
        (256, 25, 33), (512, 13, 17), (1024, 7, 9), (2048, 4, 5),
    ]  # fmt: skip
    assert body.out_channels == (256, 512, 1024, 2048) and body.strides == (4, 8, 16, 32)


def tiny_resnet(norm=nn.BatchNorm2d, **options) -> ResNet:
    stages = stage_geometries((1, 2, 1, 1), stem_channels=8, res2_channels=16, bottleneck_channels=4)
    settings = BottleneckSettings(norm, stride_in_1x1=options.pop("stride_in_1x1", True))
    return ResNet(stages, settings, stem_norm=norm, return_stages=options.pop("return_stages", (4,)), **options)


def test_the_stride_can_be_in_either_convolution():
    block = tiny_resnet(stride_in_1x1=True).layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
    block = tiny_resnet(stride_in_1x1=False).layer2[0]
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))


def test_gradients_reach_all_parameters():
    body = tiny_resnet()
    body(torch.randn(2, 3, 64, 64))[0].square().sum().backward()
    assert [name for name, p in body.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_frozen_parts_do_not_learn_and_keep_their_statistics():
    body = tiny_resnet(frozen_parts=2).train()
    learning = {name.split(".")[0] for name, parameter in body.named_parameters() if parameter.requires_grad}
    assert learning == {"layer2", "layer3", "layer4"}
    before = {key: value.clone() for key, value in body.state_dict().items()}
    body(torch.randn(2, 3, 32, 32))[0].sum().backward()
    changed = {key.split(".")[0] for key, value in body.state_dict().items() if not torch.equal(before[key], value)}
    assert changed == {"layer2", "layer3", "layer4"}
    with pytest.raises(ValueError, match=r"FREEZE_CONV_BODY_AT is 6, but this body has the parts stem, layer1"):
        tiny_resnet(frozen_parts=6)


def test_random_weights_stay_finite_however_deep():
    body = ResNet(
        stage_geometries((3, 8, 36, 3), stem_channels=8, res2_channels=16, bottleneck_channels=4),
        BottleneckSettings(FrozenBatchNorm2d),
        stem_norm=FrozenBatchNorm2d,
        return_stages=(4,),
    )
    assert body(torch.randn(1, 3, 64, 64))[0].std() < 1e4


def cfg_with(*opts):
    cfg = get_cfg()
    cfg.merge_from_list(list(opts))
    return cfg


@pytest.mark.parametrize(
    ("opts", "stem_norm", "block_norm"),
    [
        ((), FrozenBatchNorm2d, FrozenBatchNorm2d),
        (("MODEL.RESNETS.TRANS_FUNC", "BottleneckWithGN"), FrozenBatchNorm2d, nn.GroupNorm),
        (("MODEL.RESNETS.STEM_FUNC", "StemWithGN"), nn.GroupNorm, FrozenBatchNorm2d),
        (("MODEL.RESNETS.NORM", "BN"), FrozenBatchNorm2d, nn.BatchNorm2d),  # the stem is frozen
        (("MODEL.RESNETS.NORM", "SyncBN", "MODEL.BACKBONE.FREEZE_CONV_BODY_AT", 0), nn.SyncBatchNorm, nn.SyncBatchNorm),
    ],
)
def test_norms_that_a_config_names(opts, stem_norm, block_norm):
    with torch.device("meta"):
        body = ResNet.from_cfg(cfg_with(*opts), depth=50, return_stages=(3,))
    assert isinstance(body.stem.bn1, stem_norm)
    assert isinstance(body.layer3[0].bn2, block_norm) and isinstance(body.layer3[0].downsample[1], block_norm)
    assert getattr(body.layer3[0].bn2, "eps", None) == (0.0 if block_norm is FrozenBatchNorm2d else 1e-5)


def test_unknown_names_are_explained():
    cfg = cfg_with("MODEL.RESNETS.TRANS_FUNC", "BottleneckWithLN")
    with pytest.raises(ValueError, match=r"TRANS_FUNC is 'BottleneckWithLN'; expected one of 'BottleneckWithFixed"):
        ResNet.from_cfg(cfg, depth=50, return_stages=(3,))


def test_group_norm_settings_come_from_the_config():
    cfg = cfg_with("MODEL.RESNETS.NORM", "GN", "MODEL.GROUP_NORM.NUM_GROUPS", 8, "MODEL.GROUP_NORM.EPSILON", 1e-3)
    with torch.device("meta"):
        norm = ResNet.from_cfg(cfg, depth=50, return_stages=(1,)).layer1[0].bn1
    assert norm.num_groups == 8 and norm.eps == 1e-3


def test_a_dilated_last_stage_keeps_the_resolution():
    cfg = cfg_with(
        "MODEL.RESNETS.RES5_DILATION", 2, "MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8
    )
    body = ResNet.from_cfg(cfg, depth=50, return_stages=(3, 4))
    outputs = body(torch.randn(1, 3, 70, 50))
    assert [tuple(output.shape[1:]) for output in outputs] == [(32, 5, 4), (64, 5, 4)]
    assert body.strides == (16, 16)
    assert all(block.conv2.dilation == (2, 2) for block in body.layer4)


def test_deformable_stages_have_upstreams_keys():
    cfg = cfg_with("MODEL.RESNETS.STAGE_WITH_DCN", (False, False, True, True), "MODEL.RESNETS.WITH_MODULATED_DCN", True)
    with torch.device("meta"):
        body = ResNet.from_cfg(cfg, depth=50, return_stages=(4,))
    state = body.state_dict()
    assert state["layer3.0.conv2.offset.weight"].shape == (27, 256, 3, 3)
    assert state["layer4.2.conv2.conv.weight"].shape == (512, 512, 3, 3)
    assert "layer2.0.conv2.weight" in state
    assert ResNetHead.from_cfg(cfg).layer4[0].conv2.modulated


def test_deformable_body_runs_and_starts_on_the_plain_grid():
    stages = stage_geometries((1, 1), stem_channels=8, res2_channels=16, bottleneck_channels=4)
    settings = BottleneckSettings(nn.BatchNorm2d, deformable=True)
    body = ResNet(stages, settings, stem_norm=nn.BatchNorm2d, return_stages=(2,))
    assert all(m.offset.weight.eq(0).all() for m in body.modules() if isinstance(m, DFConv2d))
    body(torch.randn(2, 3, 33, 41))[0].square().sum().backward()
    assert all(parameter.grad is not None for parameter in body.parameters())


def test_head_equals_the_bodys_last_stage():
    cfg = cfg_with("MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.RESNETS.RES2_OUT_CHANNELS", 8)
    body = ResNet.from_cfg(cfg, depth=50, return_stages=(3, 4))
    head = ResNetHead.from_cfg(cfg)
    assert (head.in_channels, head.out_channels, head.stride) == (32, 64, 2)
    head.load_state_dict({key: value for key, value in body.state_dict().items() if key.startswith("layer4.")})
    features, expected = body(torch.randn(2, 3, 64, 64))
    torch.testing.assert_close(head(features), expected)
    assert head(features[:0]).shape == (0, 64, 2, 2)


@pytest.mark.parametrize(("norm", "usual"), [("FrozenBN", 0.0), ("BN", 1e-5), ("GN", 1e-5)])
def test_epsilon_of_norms(norm, usual):
    for value, eps in ((-1.0, usual), (0.001, 0.001), (0.0, 0.0)):
        cfg = cfg_with("MODEL.RESNETS.NORM", norm, "MODEL.RESNETS.NORM_EPS", value)
        with torch.device("meta"):
            body = ResNet.from_cfg(cfg, depth=50, return_stages=(3,))
        assert {module.eps for module in body.modules() if hasattr(module, "eps")} == {eps}
