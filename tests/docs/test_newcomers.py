"""Detectors of a user's own, as docs/EXTENDING.md promises them: one class outside the package, no edit inside it."""

import json

import pytest

from tests.docs.test_extending import datasets, train  # noqa: F401  (datasets is a fixture)

ONE_STAGE = """
import torch
from torch import nn

from maskrcnn_benchmark.modeling.backbone import build_backbone
from maskrcnn_benchmark.modeling.registry import META_ARCHITECTURES
from maskrcnn_benchmark.modeling.rpn.rpn import build_rpn
from maskrcnn_benchmark.structures.image_list import to_image_list


@META_ARCHITECTURES.register("OneStage")
class OneStage(nn.Module):
    tasks = ("bbox",)

    def __init__(self, cfg):
        super().__init__()
        self.backbone = build_backbone(cfg)
        self.rpn = build_rpn(cfg, self.backbone.out_channels, backbone_strides=self.backbone.strides)

    def forward(self, images, targets=None):
        images = to_image_list(images)
        boxes, losses = self.rpn(images, self.backbone(images.tensors), targets)
        if self.training:
            return losses
        for boxes_per_image in boxes:
            boxes_per_image.add_field("scores", boxes_per_image.get_field("objectness"))
            boxes_per_image.add_field("labels", torch.ones(len(boxes_per_image), dtype=torch.int64))
        return boxes
"""

TWO_VIEWS = """
from maskrcnn_benchmark.modeling.detector import GeneralizedRCNN
from maskrcnn_benchmark.modeling.registry import META_ARCHITECTURES
from maskrcnn_benchmark.structures.bounding_box import FLIP_LEFT_RIGHT
from maskrcnn_benchmark.structures.boxlist_ops import boxlist_nms, cat_boxlist
from maskrcnn_benchmark.structures.image_list import to_image_list


class TwoViews(GeneralizedRCNN):
    def forward(self, images, targets=None):
        if self.training:
            return super().forward(images, targets)
        images = to_image_list(images)
        mirrored = [image[:, :h, :w].flip(2) for image, (h, w) in zip(images.tensors, images.image_sizes)]
        views = zip(super().forward(images), super().forward(mirrored))
        return [boxlist_nms(cat_boxlist([a, b.transpose(FLIP_LEFT_RIGHT)]), 0.5) for a, b in views]


META_ARCHITECTURES.register("TwoViews", TwoViews.from_cfg)
"""

BOXES_ONLY = ["MODEL.MASK_ON", "False", "MODEL.KEYPOINT_ON", "False", "MODEL.REFINE_ON", "False"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "module"), [("OneStage", ONE_STAGE), ("TwoViews", TWO_VIEWS)])
def test_a_detector_of_your_own_trains_and_is_evaluated(name, module, datasets, tmp_path):  # noqa: F811
    (tmp_path / "detector.py").write_text(module)
    output = tmp_path / "output"
    more = ["IMPORTS", "('detector',)", "MODEL.META_ARCHITECTURE", name]
    log, lines = train(datasets, output, *BOXES_ONLY, *more)
    assert sum("loss_objectness" in line for line in lines) == 4
    results = json.loads((output / "inference" / "people_val" / "coco_results.json").read_text())["metrics"]
    assert list(results) == ["bbox"]
