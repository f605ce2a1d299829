"""How close the models here come to torchvision's with the same weights: the table of docs/FIDELITY.md.

    python benchmarks/fidelity.py [IMAGE ...] [--min-size 800] [--batch 2] [--models maskrcnn_resnet50_fpn ...]

torchvision's models get deterministic random weights, so nothing is downloaded. Without images, random ones are drawn.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.functional import to_tensor
from yacs.config import CfgNode

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.data.transforms import build_transforms
from maskrcnn_benchmark.drawing.masks import image_masks
from maskrcnn_benchmark.engine.predictor import detections_in_image
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.modeling.state_dict_names import load_state_dict
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import to_image_list
from maskrcnn_benchmark.utils.model_serialization import LoadReport

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "torchvision"
MODELS = ("fasterrcnn_resnet50_fpn", "maskrcnn_resnet50_fpn", "keypointrcnn_resnet50_fpn")

# Standard deviations that the outputs of predictors are scaled to: scores and boxes then vary as a trained model's do.
SPREADS = {
    "rpn.head.cls_logits": 2.0,
    "rpn.head.bbox_pred": 0.05,
    "roi_heads.box_predictor.cls_score": 2.0,
    "roi_heads.box_predictor.bbox_pred": 0.3,
    "roi_heads.mask_predictor.mask_fcn_logits": 3.0,
    "roi_heads.keypoint_predictor.kps_score_lowres": 3.0,
}


def torchvision_model(model_name: str, min_size: int, max_size: int, seed: int = 0) -> nn.Module:
    """A detector of torchvision with random weights whose activations, scores and boxes are not degenerate."""
    torch.manual_seed(seed)
    builder: Callable[..., nn.Module] = getattr(torchvision.models.detection, model_name)
    model = builder(weights=None, weights_backbone=None, min_size=min_size, max_size=max_size)
    image = to_tensor(random_images([(192, 160)], seed)[0])
    backbone: Any = model.backbone
    with torch.no_grad():
        for name, module in backbone.named_modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # statistics of one image
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.2, 0.2)
                if name.endswith("bn3"):  # small residuals, so that rounding is not amplified from block to block
                    module.weight.mul_(0.3)
        backbone.train()
        backbone(torch.randn(1, 3, 160, 192))
        present = {name for name, _ in model.named_modules()}
        hooks = [
            model.get_submodule(layer).register_forward_hook(_scale_to(spread))
            for layer, spread in SPREADS.items()
            if layer in present
        ]
        model.eval()([image])
        for hook in hooks:
            hook.remove()
    return model


def _scale_to(spread: float) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    """A hook that scales a layer the first time it runs: its outputs get this standard deviation and a mean of 0."""
    scaled: set[nn.Module] = set()

    def scale(layer: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        if layer in scaled:  # the RPN's head runs on every level
            return output
        scaled.add(layer)
        factor = spread / float(output.std())
        weight, bias = layer.weight, layer.bias
        assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
        bias.sub_(output.transpose(0, 1).flatten(1).mean(1)).mul_(factor)
        weight.mul_(factor)
        output = layer.forward(*inputs)
        return output

    return scale


def own_cfg(name: str, min_size: int, max_size: int) -> CfgNode:
    """The shipped config of a model, for the CPU and images of another size."""
    opts = ["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", min_size, "INPUT.MAX_SIZE_TEST", max_size]
    return load_config(CONFIGS / f"{name}.yaml", opts)


def own_model(cfg: CfgNode, state: dict[str, Tensor]) -> tuple[nn.Module, LoadReport]:
    """The model of a config with torchvision's weights, and what was loaded."""
    model = build_detection_model(cfg)
    return model.eval(), load_state_dict(model, state, cfg)


@torch.no_grad()
def compare(
    name: str, peer: nn.Module, model: nn.Module, cfg: CfgNode, images: Sequence[Image.Image]
) -> dict[str, float]:
    """Largest difference of each stage for one batch, and "detections", their number."""
    theirs: Any = peer
    ours: Any = model
    transforms = build_transforms(cfg, is_train=False)
    batch = to_image_list([transforms(image)[0] for image in images], cfg.DATALOADER.SIZE_DIVISIBILITY)
    pixels, _ = theirs.transform([to_tensor(image) for image in images])
    assert list(pixels.image_sizes) == list(batch.image_sizes), (pixels.image_sizes, batch.image_sizes)
    differences = {"image": _largest(pixels.tensors, batch.tensors)}

    feature_maps = theirs.backbone(pixels.tensors)
    features = ours.backbone(batch.tensors)
    differences["features"] = max(map(_relative, feature_maps.values(), features))

    peer_proposals, _ = theirs.rpn(pixels, feature_maps)
    proposals, _ = ours.rpn(batch, features)
    differences["proposals (px)"] = max(
        _to_nearest(boxes, found.bbox) for boxes, found in zip(peer_proposals, proposals, strict=True)
    )

    peer_found, _ = theirs.roi_heads(feature_maps, peer_proposals, pixels.image_sizes)
    found: list[BoxList] = ours.roi_heads(features, proposals).detections
    found = [_in_order_of(one, other) for one, other in zip(peer_found, found, strict=True)]
    sizes_hw = [(image.height, image.width) for image in images]
    final = [detections_in_image(boxes, image.size) for boxes, image in zip(found, images, strict=True)]
    differences["detections"] = float(sum(map(len, final)))
    differences["score"] = max(
        _largest(one["scores"], other.get_field(fields.SCORES)) for one, other in zip(peer_found, found, strict=True)
    )
    if "mask" in name:
        differences["mask"] = max(
            _largest(one["masks"], other.get_field(fields.MASK)) for one, other in zip(peer_found, found, strict=True)
        )
    peer_final = theirs.transform.postprocess(peer_found, pixels.image_sizes, sizes_hw)
    differences["box (px)"] = max(
        _largest(one["boxes"], other.bbox) for one, other in zip(peer_final, final, strict=True)
    )
    if "mask" in name:
        differences["pasted mask"] = max(
            _pasted_difference(one["masks"][:, 0], other) for one, other in zip(peer_final, final, strict=True)
        )
    if "keypoint" in name:
        differences["keypoint (px)"] = max(
            _largest(one["keypoints"][..., :2], other.get_field(fields.KEYPOINTS).keypoints[..., :2])
            for one, other in zip(peer_final, final, strict=True)
        )
        differences["keypoint score"] = max(
            _largest(one["keypoints_scores"], other.get_field(fields.KEYPOINTS).get_field(fields.LOGITS))
            for one, other in zip(peer_final, final, strict=True)
        )
    return differences


def _in_order_of(peer: dict[str, Tensor], detections: BoxList) -> BoxList:
    """The detections that are the peer's, in its order: those of almost equal scores may change places."""
    distances = torch.cdist(peer["boxes"], detections.bbox, p=float("inf"))
    distances += 1e6 * (peer["labels"][:, None] != detections.get_field(fields.LABELS))
    rows = distances.argmin(1)
    assert len(rows.unique()) == len(peer["boxes"]) == len(detections), "the detections are not the same"
    return detections[rows]


def _largest(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape, (one.shape, other.shape)
    return float((one - other).abs().max()) if one.numel() else 0.0


def _to_nearest(boxes: Tensor, others: Tensor) -> float:
    """Largest distance of a box from the nearest of the others: proposals of almost equal scores may change places."""
    assert boxes.shape == others.shape, (boxes.shape, others.shape)
    return float(torch.cdist(boxes, others, p=float("inf")).amin(1).max()) if len(boxes) else 0.0


def _relative(one: Tensor, other: Tensor) -> float:
    """Largest difference as a fraction of the largest value."""
    return _largest(one, other) / float(one.abs().max())


def _pasted_difference(probabilities: Tensor, detections: BoxList) -> float:
    """How far the probabilities of pixels on which the pasted masks disagree are from the threshold; 0 if none do."""
    drawn = image_masks(detections, threshold=0.5)
    assert drawn is not None
    disagree = (probabilities > 0.5) != drawn
    return float((probabilities - 0.5).abs()[disagree].max()) if disagree.any() else 0.0


def random_images(sizes_wh: Sequence[tuple[int, int]], seed: int = 0) -> list[Image.Image]:
    """Images of blurred noise."""
    generator = np.random.default_rng(seed)
    images = []
    for width, height in sizes_wh:
        noise = generator.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
        images.append(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
    return images


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", metavar="IMAGE")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--min-size", type=int, default=800)
    parser.add_argument("--max-size", type=int, default=1333)
    parser.add_argument("--batch", type=int, default=1, help="images per batch")
    args = parser.parse_args(argv)
    images = [Image.open(path).convert("RGB") for path in args.images] or random_images([(320, 213), (200, 300)])
    print("| model | images | " + " | ".join(["stage", "largest difference"]) + " |\n|---|---|---|---|")
    for name in args.models:
        peer = torchvision_model(name, args.min_size, args.max_size)
        cfg = own_cfg(name, args.min_size, args.max_size)
        model, report = own_model(cfg, peer.state_dict())
        keys = f"{len(report.loaded)} / {len(report.missing)} / {len(report.unused)}"
        print(f"| {name} | {len(images)} | keys loaded / missing / unused | {keys} |")
        worst: dict[str, float] = {}
        for first in range(0, len(images), args.batch):
            for stage, value in compare(name, peer, model, cfg, images[first : first + args.batch]).items():
                previous = worst.get(stage, 0.0)
                worst[stage] = previous + value if stage == "detections" else max(previous, value)
        for stage, value in worst.items():
            shown = f"{value:.0f}" if stage == "detections" else f"{value:.1e}"
            print(f"| {name} | {len(images)} | {stage} | {shown} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
