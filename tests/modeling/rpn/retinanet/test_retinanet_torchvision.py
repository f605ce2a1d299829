"""RetinaNet with torchvision's conventions and weights, against torchvision's."""

from collections import OrderedDict

import pytest
import torch
from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator as ReferenceAnchors
from torchvision.models.detection.retinanet import RetinaNet as Reference

from maskrcnn_benchmark.modeling.detector import GeneralizedRCNN
from maskrcnn_benchmark.modeling.rpn.build import build_rpn
from maskrcnn_benchmark.structures.fields import LABELS, SCORES
from tests.modeling.tiny import CHANNELS, RETINANET, STRIDES, TinyBackbone, tiny_batch, tiny_cfg

SETTINGS = [
    *("MODEL.RPN.ANCHOR_ROUNDING", "corners", "MODEL.RPN.ANCHOR_OFFSET", 0.0, "MODEL.RPN.ANCHOR_STEP_FROM_SIZES", True),
    *("MODEL.BOX_OFFSET", 0, "MODEL.RETINANET.NUM_CONVS", 4, "MODEL.RETINANET.NMS_TH", 0.5),
    *("MODEL.RETINANET.BBOX_REG_WEIGHTS", (1.0, 1.0, 1.0, 1.0)),
    *("MODEL.RETINANET.BBOX_REG_BETA", 0.0, "MODEL.RETINANET.BBOX_REG_WEIGHT", 1.0),
]


class NamedMaps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.maps = TinyBackbone()
        self.out_channels = CHANNELS

    def forward(self, images):
        return OrderedDict(enumerate(self.maps(images)))


@pytest.fixture(scope="module")
def pair():
    """Our model and torchvision's."""
    torch.manual_seed(0)
    sizes = tuple(tuple(size * 2 ** (k / 3) for k in range(3)) for size in (12, 24, 48))
    reference = Reference(
        NamedMaps(), num_classes=2, min_size=64, max_size=96, image_mean=[0.0] * 3, image_std=[1.0] * 3,
        anchor_generator=ReferenceAnchors(sizes, ((0.5, 1.0, 2.0),) * 3), topk_candidates=50, detections_per_img=20,
    )  # fmt: skip
    for module in reference.head.modules():  # else it finds nothing before it is trained
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            nn.init.zeros_(module.bias)

    cfg = tiny_cfg(*RETINANET, *SETTINGS)
    model = GeneralizedRCNN(TinyBackbone(), build_rpn(cfg, CHANNELS, backbone_strides=STRIDES), None, size_divisible=32)
    model.backbone.load_state_dict(reference.backbone.maps.state_dict())
    names = {
        "classification_head.conv.": "cls_tower.",
        "classification_head.cls_logits": "cls_logits",
        "regression_head.conv.": "bbox_tower.",
        "regression_head.bbox_reg": "bbox_pred",
    }
    weights = {}
    for key, value in reference.head.state_dict().items():
        theirs = next(name for name in names if key.startswith(name))
        ours = names[theirs] + key.removeprefix(theirs)
        if "tower" in ours:
            tower, index, _, kind = ours.split(".")
            ours = f"{tower}.{2 * int(index)}.{kind}"
        weights[ours] = value
    model.rpn.head.load_state_dict(weights)
    return model, reference


def test_detections_are_torchvisions(pair):
    model, reference = pair
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(3, 64, width, generator=generator) for width in (96, 90, 64)]
    found, expected = model.eval()(images), reference.eval()(images)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == len(theirs["boxes"]) == 20
        torch.testing.assert_close(ours.bbox, theirs["boxes"], rtol=0, atol=1e-3)
        torch.testing.assert_close(ours.get_field(SCORES), theirs["scores"], rtol=0, atol=1e-5)
        assert torch.equal(ours.get_field(LABELS), theirs["labels"] + 1)  # theirs counts from 0


def test_losses_are_torchvisions(pair):
    model, reference = pair
    images, targets = tiny_batch(offset=0)
    image, target = images[0], targets[0]
    their_target = {"boxes": target.bbox, "labels": target.get_field(LABELS) - 1}
    losses, expected = model.train()([image], [target]), reference.train()([image], [their_target])
    anchors = torch.cat(model.rpn.anchor_generator([(16, 24), (8, 12), (4, 6)], (64, 96)))
    filled = torch.ones(1, len(target), dtype=torch.bool)
    labels = model.rpn.loss.matcher.match_boxes(target.bbox[None], filled, anchors, 0).labels
    foreground = int((labels == 1).sum())
    torch.testing.assert_close(losses["loss_retina_reg"], expected["bbox_regression"])
    # torchvision divides by the foreground, upstream by the foreground plus the number of images
    torch.testing.assert_close(losses["loss_retina_cls"] * (foreground + 1) / foreground, expected["classification"])
