"""Building a detector from a configuration."""

import pytest
import torch

from maskrcnn_benchmark.config import ConfigError, load_config
from maskrcnn_benchmark.modeling.detector import build_detection_model
from tests.modeling.tiny import tiny_batch
from tests.tools.runs import CONFIG

BOXES_ALONE = ["MODEL.MASK_ON", False, "MODEL.KEYPOINT_ON", False, "MODEL.REFINE_ON", False]


def losses(channels_last):
    """A model of fixed start values and its losses, with gradients, on a tiny batch of two classes."""
    torch.manual_seed(3)
    opts = [*BOXES_ALONE, "MODEL.ROI_BOX_HEAD.NUM_CLASSES", 3, "MODEL.CHANNELS_LAST", channels_last]
    cfg = load_config(str(CONFIG), opts)
    model = build_detection_model(cfg)
    images, targets = tiny_batch(offset=0)
    result = model(images, targets)
    sum(result.values()).backward()
    return model, result


def test_the_layout_of_memory_changes_no_result():
    plain, expected = losses(channels_last=False)
    model, result = losses(channels_last=True)
    assert model.backbone.body.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    assert not plain.backbone.body.conv2.weight.is_contiguous(memory_format=torch.channels_last)
    for name, value in expected.items():
        torch.testing.assert_close(result[name], value, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.rpn.head.conv.weight.grad, plain.rpn.head.conv.weight.grad, rtol=1e-3, atol=1e-4)


def test_an_unknown_architecture_is_refused():
    cfg = load_config(str(CONFIG), ["MODEL.META_ARCHITECTURE", "GeneralisedRCNN"])
    with pytest.raises(ConfigError, match="META_ARCHITECTURE is 'GeneralisedRCNN'; registered: GeneralizedRCNN"):
        build_detection_model(cfg)
