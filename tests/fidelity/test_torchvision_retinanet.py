"""torchvision's RetinaNet with the weights and conventions of configs/torchvision/retinanet_resnet50_fpn.yaml."""

import pytest
import torch
from torch import nn
from torchvision.models.detection import retinanet_resnet50_fpn
from torchvision.transforms.functional import to_tensor

from benchmarks.fidelity import own_cfg, own_model, random_images
from maskrcnn_benchmark.data.transforms import build_transforms
from maskrcnn_benchmark.structures.fields import LABELS, SCORES
from maskrcnn_benchmark.structures.image_list import to_image_list

NAME = "retinanet_resnet50_fpn"


def random_retinanet(min_size, max_size):
    torch.manual_seed(0)
    model = retinanet_resnet50_fpn(weights=None, weights_backbone=None, min_size=min_size, max_size=max_size)
    for name, module in model.backbone.named_modules():
        if name.endswith("bn3"):  # small residuals, so that rounding is not amplified from block to block
            module.weight.data.mul_(0.3)
    for module in model.head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)
    model.head.classification_head.cls_logits.bias.data.unflatten(0, (-1, 91))[:, 0] = -1000.0  # class 0 is not used
    regression = model.head.regression_head.bbox_reg
    backbone_scale = model.backbone(torch.randn(1, 3, 64, 64))["0"].std()
    regression.weight.data.mul_(0.1 / backbone_scale)
    model.head.classification_head.cls_logits.weight.data.div_(backbone_scale)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("sizes_wh", [[(160, 128), (160, 128)], [(150, 117)], [(101, 190)]])
def test_detections_are_torchvisions(sizes_wh):
    peer, images = random_retinanet(128, 192), random_images(sizes_wh)
    cfg = own_cfg(NAME, 128, 192)
    model, report = own_model(cfg, peer.state_dict())
    assert report.complete and not report.unused
    transforms = build_transforms(cfg, is_train=False)
    batch = to_image_list([transforms(image)[0] for image in images], cfg.DATALOADER.SIZE_DIVISIBILITY)
    with torch.no_grad():
        found, expected = model(batch), peer([to_tensor(image) for image in images])
    for ours, theirs, image in zip(found, expected, images, strict=True):
        ours = ours.resize(image.size)
        assert len(ours) == len(theirs["boxes"]) > 100
        distances = torch.cdist(theirs["boxes"], ours.bbox, p=float("inf"))
        distances += 1e6 * (theirs["labels"][:, None] != ours.get_field(LABELS))
        nearest, rows = distances.min(1)
        assert len(rows.unique()) == len(ours) and nearest.max() < 1e-3
        torch.testing.assert_close(ours.get_field(SCORES)[rows], theirs["scores"], rtol=0, atol=1e-5)
