"""HRNet against a second, plain implementation that knows nothing but the keys of the official weights."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskrcnn_benchmark.config import get_cfg
from maskrcnn_benchmark.layers.norm import FrozenBatchNorm2d, make_norm
from maskrcnn_benchmark.modeling.backbone.hrnet import HRNet, StageSettings
from tests.devices import DEVICES

STAGES = (
    StageSettings((2,), (4,), bottleneck=True),
    StageSettings((1, 2), (6, 8), num_modules=1),
    StageSettings((1, 1, 1), (6, 8, 12), num_modules=2),
    StageSettings((2, 1, 1, 1), (6, 8, 12, 10), num_modules=2),
)
FROZEN = partial(FrozenBatchNorm2d, eps=1e-5)


def tiny_hrnet(norm=FROZEN, **options) -> HRNet:
    """With norms that are not the identity."""
    body = HRNet(STAGES, norm, **options)
    for module in body.modules():
        if isinstance(module, (FrozenBatchNorm2d, nn.BatchNorm2d)):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
    return body


class ReferenceHRNet:
    """The published figure, step by step, driven by the names in a state dict."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        self.state = state

    def has(self, prefix: str) -> bool:
        return any(key.startswith(prefix + ".") for key in self.state)

    def conv_bn(self, conv: str, bn: str, x: Tensor, stride: int = 1, relu: bool = True) -> Tensor:
        weight = self.state[f"{conv}.weight"]
        x = F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2)
        parameters = (self.state[f"{bn}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, *parameters, training=False, eps=1e-5)
        return F.relu(x) if relu else x

    def pair(self, prefix: str, x: Tensor, stride: int = 1, relu: bool = True) -> Tensor:
        return self.conv_bn(f"{prefix}.0", f"{prefix}.1", x, stride, relu)

    def blocks(self, prefix: str, x: Tensor) -> Tensor:
        index = 0
        while self.has(f"{prefix}.{index}"):
            block = f"{prefix}.{index}"
            shortcut = self.pair(f"{block}.downsample", x, relu=False) if self.has(f"{block}.downsample") else x
            last = 3 if self.has(f"{block}.conv3") else 2
            for number in range(1, last + 1):
                x = self.conv_bn(f"{block}.conv{number}", f"{block}.bn{number}", x, relu=number < last)
            x = F.relu(x + shortcut)
            index += 1
        return x

    def transition(self, prefix: str, branches: list[Tensor], count: int) -> list[Tensor]:
        outputs = []
        for branch in range(count):
            x = branches[branch] if branch < len(branches) else branches[-1]
            if self.has(f"{prefix}.{branch}.0.0"):  # a chain of halvings
                step = 0
                while self.has(f"{prefix}.{branch}.{step}"):
                    x = self.pair(f"{prefix}.{branch}.{step}", x, stride=2)
                    step += 1
            elif self.has(f"{prefix}.{branch}"):
                x = self.pair(f"{prefix}.{branch}", x)
            outputs.append(x)
        return outputs

    def module(self, prefix: str, branches: list[Tensor]) -> list[Tensor]:
        branches = [self.blocks(f"{prefix}.branches.{i}", x) for i, x in enumerate(branches)]
        outputs = []
        for target in range(len(branches)):
            if target and not self.has(f"{prefix}.fuse_layers.{target}"):
                continue
            total = torch.zeros_like(branches[target])
            for source, x in enumerate(branches):
                layer = f"{prefix}.fuse_layers.{target}.{source}"
                if source > target:
                    x = self.enlarge(self.pair(layer, x, relu=False), branches[target].shape[-2:])
                for step in range(target - source):
                    x = self.pair(f"{layer}.{step}", x, stride=2, relu=step + 1 < target - source)
                total = total + x
            outputs.append(F.relu(total))
        return outputs

    @staticmethod
    def enlarge(x: Tensor, size_hw: tuple[int, int]) -> Tensor:
        rows = [row * x.shape[-2] // size_hw[0] for row in range(size_hw[0])]
        columns = [column * x.shape[-1] // size_hw[1] for column in range(size_hw[1])]
        return x[:, :, rows][:, :, :, columns]

    def __call__(self, images: Tensor) -> list[Tensor]:
        x = self.conv_bn("conv1", "bn1", images, stride=2)
        x = self.conv_bn("conv2", "bn2", x, stride=2)
        branches = [self.blocks("layer1", x)]
        for number in (2, 3, 4):
            branches = self.transition(f"transition{number - 1}", branches, number)
            index = 0
            while self.has(f"stage{number}.{index}"):
                branches = self.module(f"stage{number}.{index}", branches)
                index += 1
        return branches


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("size_hw", [(64, 96), (97, 131), (33, 5), (1, 1)])
def test_outputs_equal_the_reference(device, size_hw):
    body = tiny_hrnet().to(device)
    images = torch.randn(2, 3, *size_hw, device=device)
    with torch.no_grad():
        outputs, expected = body(images), ReferenceHRNet(body.state_dict())(images)
    for output, reference in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, reference, rtol=1e-4, atol=1e-4)
    sizes = [tuple(-(-side // stride) for side in size_hw) for stride in (4, 8, 16, 32)]
    assert [tuple(output.shape[-2:]) for output in outputs] == sizes
    assert body.strides == (4, 8, 16, 32) and body.out_channels == (6, 8, 12, 10)


def test_single_output():
    body = tiny_hrnet(multi_output=False)
    images = torch.randn(1, 3, 40, 48)
    outputs = body(images)
    torch.testing.assert_close(outputs, ReferenceHRNet(body.state_dict())(images), rtol=1e-4, atol=1e-4)
    assert body.out_channels == (6,) and body.strides == (4,) and len(outputs) == 1
    assert not any("stage4.1.fuse_layers.1" in key for key in body.state_dict())
    outputs[0].sum().backward()
    assert all(parameter.grad is not None for parameter in body.parameters())


def test_stage_of_any_block_and_width():
    """Nothing assumes a stem of 64 channels, 256 channels behind stage 1 or basic blocks in the later stages."""
    stages = (
        StageSettings((1,), (6,), bottleneck=False),
        StageSettings((1, 1), (3, 4), bottleneck=True),
        StageSettings((1, 1, 1), (5, 4, 6), bottleneck=False),  # branches change their width between stages
        StageSettings((1, 1, 1, 1), (5, 4, 6, 7), bottleneck=False),
    )
    body = HRNet(stages, FROZEN, stem_channels=5)
    images = torch.randn(1, 3, 35, 64)
    torch.testing.assert_close(body(images), ReferenceHRNet(body.state_dict())(images), rtol=1e-4, atol=1e-4)
    assert {"transition2.0.0.weight", "transition2.1.0.weight", "transition3.3.0.0.weight"} <= set(body.state_dict())


@pytest.mark.parametrize("name", ["GN", "BN"])
def test_gradients_reach_all_parameters_and_random_weights_train(name):
    body = HRNet(STAGES, partial(make_norm, name))
    outputs = body(torch.randn(2, 3, 64, 64))
    assert all(0.1 < output.std() < 10 for output in outputs)
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    lost = [key for key, p in body.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert lost == []


def test_gradients_equal_the_references():
    """In-place sums and ReLUs must not disturb what the backward pass reads."""
    body = tiny_hrnet().double()
    images = torch.randn(1, 3, 45, 38, dtype=torch.float64)
    factors = [torch.randn_like(output) for output in body(images)]
    state = {key: value.detach().clone() for key, value in body.state_dict().items()}
    for name, _ in body.named_parameters():
        state[name].requires_grad_()
    for outputs in (body(images), ReferenceHRNet(state)(images)):
        sum((output * factor).sum() for output, factor in zip(outputs, factors, strict=True)).backward()
    for name, parameter in body.named_parameters():
        torch.testing.assert_close(parameter.grad, state[name].grad, msg=lambda text, name=name: f"{name}: {text}")


def saved_bytes_and_gradients(body: HRNet, images: Tensor) -> tuple[int, dict[str, Tensor]]:
    """Bytes that autograd keeps between forward and backward pass, as seen from outside of checkpointed regions."""
    saved = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal saved
        saved += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        outputs = body(images)
    sum(output.square().sum() for output in outputs).backward()
    return saved, {name: parameter.grad for name, parameter in body.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("name", ["BN", "GN", "FrozenBN"])
def test_checkpointed_activations_give_equal_gradients_for_less_memory(name):
    plain = HRNet(STAGES, partial(make_norm, name)).train()
    checkpointed = HRNet(STAGES, partial(make_norm, name), checkpoint_activations=True).train()
    checkpointed.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 64)
    saved_plain, expected = saved_bytes_and_gradients(plain, images)
    saved_checkpointed, gradients = saved_bytes_and_gradients(checkpointed, images)
    assert saved_checkpointed < saved_plain / 2
    assert gradients.keys() == expected.keys()
    for key, gradient in gradients.items():
        assert torch.equal(gradient, expected[key]), key
    # Running statistics: a batch counts once, though its activations were computed twice.
    for key, value in checkpointed.state_dict().items():
        assert torch.equal(value, plain.state_dict()[key]), key
    assert all(m.momentum == 0.1 for m in checkpointed.modules() if isinstance(m, nn.BatchNorm2d))


def test_frozen_parts_do_not_learn_and_keep_their_statistics():
    body = HRNet(STAGES, nn.BatchNorm2d, frozen_parts=3, checkpoint_activations=True).train()
    learning = {key.split(".")[0] for key, parameter in body.named_parameters() if parameter.requires_grad}
    assert learning == {"transition2", "stage3", "transition3", "stage4"}
    before = {key: value.clone() for key, value in body.state_dict().items()}
    sum(output.sum() for output in body(torch.randn(2, 3, 64, 64))).backward()
    changed = {key.split(".")[0] for key, value in body.state_dict().items() if not torch.equal(before[key], value)}
    assert changed <= learning and "stage4" in changed
    with pytest.raises(ValueError, match=r"FREEZE_AT is 6; expected a number from 0 \(all parts learn\) to 5"):
        HRNet(STAGES, nn.BatchNorm2d, frozen_parts=6)


def test_channels_last_stays_channels_last():
    body = tiny_hrnet()
    images = torch.randn(2, 3, 48, 64)
    expected = body(images)
    outputs = body.to(memory_format=torch.channels_last)(images.to(memory_format=torch.channels_last))
    for output, reference in zip(outputs, expected, strict=True):
        assert output.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(output, reference, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["FrozenBN", "BN", "GN"])
def test_runs_in_bfloat16(device, name):
    """Norms hand out different dtypes under autocast; sums of branches have to take what comes."""
    body = HRNet(STAGES, partial(make_norm, name)).to(device)
    images = torch.randn(2, 3, 64, 64, device=device)
    expected = body(images)
    with torch.autocast(device, torch.bfloat16):
        outputs = body(images)
    for output, reference in zip(outputs, expected, strict=True):
        assert (output.float() - reference).abs().mean() < 0.1 * reference.abs().mean()
    sum(output.float().sum() for output in outputs).backward()
    assert all(parameter.grad is not None for parameter in body.parameters())


@pytest.mark.slow
def test_compiles_into_one_graph():
    body = tiny_hrnet().eval()
    images = torch.randn(1, 3, 40, 56)
    compiled = torch.compile(body, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images), body(images))


def hrnet_cfg(*opts):
    cfg = get_cfg()
    cfg.merge_from_list(["MODEL.HRNET.STAGE1.NUM_BLOCKS", [4, 9], "MODEL.HRNET.STAGE1.NUM_CHANNELS", [64, 5]])
    for number, widths in ((2, [18, 36]), (3, [18, 36, 72]), (4, [18, 36, 72, 144])):
        stage = f"MODEL.HRNET.STAGE{number}"
        cfg.merge_from_list([f"{stage}.NUM_CHANNELS", widths, f"{stage}.BLOCK", "BasicBlockWithFixedBatchNorm"])
    cfg.merge_from_list(["MODEL.HRNET.STAGE3.NUM_MODULES", 4, "MODEL.HRNET.STAGE4.NUM_MODULES", 3, *opts])
    return cfg


def test_w18_from_config_has_the_published_size():
    with torch.device("meta"):
        body = HRNet.from_cfg(hrnet_cfg())
    assert len(body.layer1) == 4  # the first entries of stage 1 count
    assert body.out_channels == (18, 36, 72, 144)
    assert body.conv2.weight.shape == (64, 64, 3, 3)
    total = sum(value.numel() for value in body.parameters())
    norms = sum(m.weight.numel() * 2 for m in body.modules() if isinstance(m, FrozenBatchNorm2d))
    assert round((total + norms) / 1e6, 2) == 9.56  # the classification network's body, with its trained norms
    assert all(m.eps == 1e-5 for m in body.modules() if isinstance(m, FrozenBatchNorm2d))


@pytest.mark.parametrize(
    ("opts", "error", "message"),
    [
        (("MODEL.HRNET.STAGE3.NUM_CHANNELS", [18, 36]), ValueError, r"STAGE3.NUM_CHANNELS is \[18, 36\]; expected 3"),
        (("MODEL.HRNET.STAGE2.NUM_BRANCHES", 3), ValueError, "STAGE2.NUM_BRANCHES is 3; expected 2"),
        (("MODEL.HRNET.STAGE4.BLOCK", "Basic"), ValueError, "STAGE4.BLOCK is 'Basic'; expected one of 'Bottleneck"),
        (("MODEL.HRNET.STAGE4.FUSE_METHOD", "MAX"), ValueError, "STAGE4.FUSE_METHOD is 'MAX'; expected one of 'SUM'"),
        (("MODEL.HRNET.NORM", ""), ValueError, "MODEL.HRNET.NORM is ''; expected one of 'FrozenBN'"),
        (("MODEL.HRNET.NORM", "XN"), ValueError, "MODEL.HRNET.NORM is 'XN'; expected one of 'FrozenBN'"),
    ],
)
def test_impossible_configs_are_explained(opts, error, message):
    with pytest.raises(error, match=message):
        HRNet.from_cfg(hrnet_cfg(*opts))
