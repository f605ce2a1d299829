"""Detectron2's R-CNNs by their definitions: slow, one image at a time, on a state dict with Detectron2's names.

Written from its documentation and its configs, since Detectron2 does not install beside current PyTorch. Nothing of the
package is used. Class 0 is the first foreground class here, the background is the last.
"""

import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

PIXEL_MEAN = (103.53, 116.28, 123.675)  # BGR
RATIOS = (0.5, 1.0, 2.0)  # height / width
SIZES = (32, 64, 128, 256, 512)
DELTA_LIMIT = math.log(1000 / 16)
# Standard deviations of the outputs of predictors after `calibrate`
SPREADS = {"objectness_logits": 2.0, "anchor_deltas": 0.05, "cls_score": 2.0, "bbox_pred": 0.3}
SPREADS |= {"mask_head.predictor": 3.0, "score_lowres": 3.0}


def resized(image: Image.Image, short: int, longest: int) -> Image.Image:
    """ResizeShortestEdge: both sides by one factor, rounded to the nearest pixel; bilinear on bytes."""
    width, height = image.size
    factor = short / min(width, height)
    new_width, new_height = (factor * width, float(short)) if height < width else (float(short), factor * height)
    if max(new_width, new_height) > longest:
        factor = longest / max(new_width, new_height)
        new_width, new_height = new_width * factor, new_height * factor
    return image.resize((int(new_width + 0.5), int(new_height + 0.5)), Image.Resampling.BILINEAR)


class Detectron2Reference:
    """One of its models.

    Args:
        state: weights by Detectron2's names; `calibrate` changes them.
        kind: "FPN", "C4" or "DC5".
        counts: proposals per level before NMS, and of an image after it.
    """

    def __init__(self, state: dict[str, Tensor], kind: str, counts: tuple[int, int]) -> None:
        self.state, self.kind, self.counts = state, kind, counts
        self.is_calibrating = False
        self.body = "backbone.bottom_up." if kind == "FPN" else "backbone."

    def calibrate(self, pixels: Tensor) -> None:
        """Choose statistics of norms and scales of predictors such that activations, scores and boxes vary."""
        self.scaled: set[str] = set()
        self.is_calibrating = True
        features = self.features(pixels)
        proposals, _ = self.proposals(features, (pixels.shape[3], pixels.shape[2]))
        boxes, _, labels = self.detections(features, proposals, (pixels.shape[3], pixels.shape[2]))
        self.masks(features, boxes, labels)
        self.heatmaps(features, boxes)
        self.is_calibrating = False

    # Layers

    def conv(self, name: str, x: Tensor, **geometry: int) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state.get(f"{name}.bias"), **geometry)

    def norm(self, name: str, x: Tensor) -> Tensor:
        scale, shift, mean, var = (
            self.state[f"{name}.{part}"] for part in ("weight", "bias", "running_mean", "running_var")
        )
        if self.is_calibrating and name not in self.scaled:
            self.scaled.add(name)
            mean.copy_(x.mean((0, 2, 3)))
            var.copy_(x.var((0, 2, 3)) + 1e-3)
            scale.uniform_(0.5, 1.5).mul_(0.3 if name.endswith("conv3.norm") else 1.0)
            shift.uniform_(-0.2, 0.2)
        scale = scale / (var + 1e-5).sqrt()
        return x * scale[:, None, None] + (shift - mean * scale)[:, None, None]

    def predict(self, name: str, x: Tensor, layer) -> Tensor:
        """The output of a predictor; `layer` is called with x, weight and bias."""
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        if self.is_calibrating and name not in self.scaled and len(x):
            self.scaled.add(name)
            (spread,) = (value for ending, value in SPREADS.items() if name.endswith(ending))
            output = layer(x, weight, bias)
            weight.mul_(spread / output.std())
            bias.zero_()
        return layer(x, weight, bias)

    def block(self, name: str, x: Tensor, stride: int, dilation: int) -> Tensor:
        """A bottleneck with the stride in its first convolution."""
        out = F.relu(self.norm(f"{name}.conv1.norm", self.conv(f"{name}.conv1", x, stride=stride)))
        out = F.relu(
            self.norm(f"{name}.conv2.norm", self.conv(f"{name}.conv2", out, padding=dilation, dilation=dilation))
        )
        out = self.norm(f"{name}.conv3.norm", self.conv(f"{name}.conv3", out))
        if f"{name}.shortcut.weight" in self.state:
            x = self.norm(f"{name}.shortcut.norm", self.conv(f"{name}.shortcut", x, stride=stride))
        return F.relu(out + x)

    def stage(self, name: str, x: Tensor, stride: int, dilation: int = 1) -> Tensor:
        index = 0
        while f"{name}.{index}.conv1.weight" in self.state:
            x = self.block(f"{name}.{index}", x, stride if index == 0 else 1, dilation)
            index += 1
        return x

    # Stages

    def pixels(self, image: Image.Image) -> Tensor:
        """RGB -> (1, 3, H, W), BGR without its mean, padded with zeros to 32 if there is a pyramid."""
        rgb = torch.from_numpy(np.array(image, dtype=np.float32))
        bgr = (rgb.flip(2) - torch.tensor(PIXEL_MEAN)).permute(2, 0, 1)[None]
        divisor = 32 if self.kind == "FPN" else 1
        return F.pad(bgr, (0, -image.width % divisor, 0, -image.height % divisor))

    def features(self, pixels: Tensor) -> list[Tensor]:
        x = self.conv(f"{self.body}stem.conv1", pixels, stride=2, padding=3)
        x = F.max_pool2d(F.relu(self.norm(f"{self.body}stem.conv1.norm", x)), 3, 2, 1)
        maps = []
        for index in (2, 3, 4) if self.kind == "C4" else (2, 3, 4, 5):
            dilated = self.kind == "DC5" and index == 5
            x = self.stage(f"{self.body}res{index}", x, 1 if index == 2 or dilated else 2, 2 if dilated else 1)
            maps.append(x)
        if self.kind != "FPN":
            return maps[-1:]
        laterals = [self.conv(f"backbone.fpn_lateral{index + 2}", x) for index, x in enumerate(maps)]
        for index in (2, 1, 0):
            laterals[index] = laterals[index] + F.interpolate(laterals[index + 1], scale_factor=2.0, mode="nearest")
        maps = [self.conv(f"backbone.fpn_output{index + 2}", x, padding=1) for index, x in enumerate(laterals)]
        return [*maps, F.max_pool2d(maps[-1], 1, 2)]

    def anchors(self, level: int, height: int, width: int) -> Tensor:
        """(height * width * A, 4): about the corner of each cell, all ratios of a size together."""
        stride = 4 * 2**level if self.kind == "FPN" else 16
        boxes = []
        for y in range(height):
            for x in range(width):
                for size in SIZES[level : level + 1] if self.kind == "FPN" else SIZES:
                    for ratio in RATIOS:
                        w = math.sqrt(size**2 / ratio)
                        h = ratio * w
                        boxes.append((x * stride - w / 2, y * stride - h / 2, x * stride + w / 2, y * stride + h / 2))
        return torch.tensor(boxes)

    def proposals(self, features: list[Tensor], size_wh: tuple[int, int]) -> tuple[Tensor, Tensor]:
        head, before_nms, after_nms = "proposal_generator.rpn_head.", *self.counts
        kept_boxes, kept_logits = [], []
        for level, x in enumerate(features):
            hidden = F.relu(self.conv(f"{head}conv", x, padding=1))
            logits = self.predict(f"{head}objectness_logits", hidden, F.conv2d).permute(0, 2, 3, 1).flatten()
            deltas = self.predict(f"{head}anchor_deltas", hidden, F.conv2d)
            deltas = deltas.reshape(-1, 4, *deltas.shape[2:]).permute(2, 3, 0, 1).reshape(-1, 4)
            best, rows = logits.topk(min(before_nms, len(logits)))
            anchors = self.anchors(level, *x.shape[2:])[rows]
            boxes = clipped(decoded(deltas[rows], anchors, (1, 1, 1, 1)), size_wh)
            usable = ((boxes[:, 2:] - boxes[:, :2]) > 0).all(1)
            boxes, best = boxes[usable], best[usable]
            keep = nms(boxes, best, 0.7)
            kept_boxes.append(boxes[keep])
            kept_logits.append(best[keep])
        boxes, logits = torch.cat(kept_boxes), torch.cat(kept_logits)
        order = logits.argsort(descending=True, stable=True)[:after_nms]
        return boxes[order], logits[order]

    def pooled(self, features: list[Tensor], boxes: Tensor, bins: int) -> Tensor:
        if self.kind != "FPN":
            return roi_align(features[0], [boxes], bins, 1 / 16, 0, True)
        sizes = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sqrt()
        levels = (4 + torch.log2(sizes / 224 + 1e-8)).floor().clamp(2, 5).long() - 2
        rows = [
            roi_align(features[level], [box[None]], bins, 1 / (4 * 2**level), 0, True)
            for box, level in zip(boxes, levels.tolist(), strict=True)
        ]
        return torch.cat(rows) if rows else features[0].new_zeros(0, features[0].shape[1], bins, bins)

    def detections(self, features: list[Tensor], proposals: Tensor, size_wh: tuple[int, int]) -> tuple[Tensor, ...]:
        """Boxes (R, 4), scores (R,) and classes (R,), best first."""
        if self.kind == "C4":
            x = self.stage("roi_heads.res5", self.pooled(features, proposals, 14), 2).mean((2, 3))
        else:
            x = self.pooled(features, proposals, 7).flatten(1)
            for name in ("fc1", "fc2"):
                layer = f"roi_heads.box_head.{name}"
                x = F.relu(F.linear(x, self.state[f"{layer}.weight"], self.state[f"{layer}.bias"]))
        scores = self.predict("roi_heads.box_predictor.cls_score", x, F.linear).softmax(1)
        deltas = self.predict("roi_heads.box_predictor.bbox_pred", x, F.linear)
        found = []
        for label in range(scores.shape[1] - 1):
            rows = (scores[:, label] > 0.05).nonzero().flatten()
            boxes = decoded(deltas[rows, 4 * label : 4 * label + 4], proposals[rows], (10, 10, 5, 5))
            boxes = clipped(boxes, size_wh)
            found += [(scores[rows[row], label], label, boxes[row]) for row in nms(boxes, scores[rows, label], 0.5)]
        found = sorted(found, key=lambda one: -float(one[0]))[:100]
        boxes = torch.stack([box for _, _, box in found]) if found else torch.zeros(0, 4)
        return boxes, torch.tensor([float(score) for score, _, _ in found]), torch.tensor([one[1] for one in found])

    def masks(self, features: list[Tensor], boxes: Tensor, labels: Tensor) -> Tensor | None:
        """(R, M, M) probabilities of each box's class."""
        head = "roi_heads.mask_head."
        if f"{head}predictor.weight" not in self.state:
            return None
        x = self.pooled(features, boxes, 14)
        if self.kind == "C4":
            x = self.stage("roi_heads.res5", x, 2)
        else:
            for index in range(4):
                x = F.relu(self.conv(f"{head}mask_fcn{index + 1}", x, padding=1))
        deconv = (self.state[f"{head}deconv.weight"], self.state[f"{head}deconv.bias"])
        x = self.predict(f"{head}predictor", F.relu(F.conv_transpose2d(x, *deconv, stride=2)), F.conv2d)
        return x[torch.arange(len(x)), labels].sigmoid()

    def heatmaps(self, features: list[Tensor], boxes: Tensor) -> Tensor | None:
        """(R, K, S, S) logits."""
        head = "roi_heads.keypoint_head."
        if f"{head}score_lowres.weight" not in self.state:
            return None
        x = self.pooled(features, boxes, 14)
        for index in range(8):
            x = F.relu(self.conv(f"{head}conv_fcn{index + 1}", x, padding=1))
        x = self.predict(f"{head}score_lowres", x, lambda *args: F.conv_transpose2d(*args, stride=2, padding=1))
        return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def decoded(deltas: Tensor, boxes: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Box2BoxTransform.apply_deltas."""
    dx, dy, dw, dh = (deltas / torch.tensor(weights)).unbind(1)
    widths, heights = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    x, y = dx * widths + boxes[:, 0] + 0.5 * widths, dy * heights + boxes[:, 1] + 0.5 * heights
    w, h = dw.clamp(max=DELTA_LIMIT).exp() * widths, dh.clamp(max=DELTA_LIMIT).exp() * heights
    return torch.stack([x - 0.5 * w, y - 0.5 * h, x + 0.5 * w, y + 0.5 * h], dim=1)


def clipped(boxes: Tensor, size_wh: tuple[int, int]) -> Tensor:
    return torch.minimum(boxes.clamp(min=0), torch.tensor([*size_wh, *size_wh], dtype=torch.float32))


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """Best first; a box goes if it overlaps a kept one by more than the threshold."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    for row in scores.argsort(descending=True, stable=True).tolist():
        near = torch.maximum(boxes[row, :2], boxes[kept, :2])
        far = torch.minimum(boxes[row, 2:], boxes[kept, 2:])
        shared = (far - near).clamp(min=0).prod(1)
        if not (shared / (areas[row] + areas[kept] - shared) > threshold).any():
            kept.append(row)
    return kept


def in_image(boxes: Tensor, size_wh: tuple[int, int], image_wh: tuple[int, int]) -> Tensor:
    """Boxes scaled to the original image and clipped to it."""
    scale = torch.tensor([image_wh[0] / size_wh[0], image_wh[1] / size_wh[1]] * 2)
    return clipped(boxes * scale, image_wh)


def pasted(masks: Tensor, boxes: Tensor, image_wh: tuple[int, int]) -> Tensor:
    """(R, M, M) probabilities to (R, H, W): bilinear at the pixels' centres, zero outside the cells."""
    width, height = image_wh
    result = torch.zeros(len(masks), height, width)
    for row, (mask, box) in enumerate(zip(masks, boxes, strict=True)):
        x = (torch.arange(width) + 0.5 - box[0]) / (box[2] - box[0]) * 2 - 1
        y = (torch.arange(height) + 0.5 - box[1]) / (box[3] - box[1]) * 2 - 1
        grid = torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=2)
        result[row] = F.grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
    return result


def keypoints(heatmaps: Tensor, boxes: Tensor) -> Tensor:
    """(R, K, S, S) logits to (R, K, 2): the largest value of the bicubic enlargement to whole pixels of the box."""
    points = torch.zeros(*heatmaps.shape[:2], 2)
    for row, box in enumerate(boxes):
        width, height = max(float(box[2] - box[0]), 1.0), max(float(box[3] - box[1]), 1.0)
        size_hw = (math.ceil(height), math.ceil(width))
        enlarged = F.interpolate(heatmaps[row : row + 1], size=size_hw, mode="bicubic", align_corners=False)[0]
        for index, plane in enumerate(enlarged):
            y, x = divmod(int(plane.argmax()), size_hw[1])
            points[row, index, 0] = (x + 0.5) * width / size_hw[1] + box[0]
            points[row, index, 1] = (y + 0.5) * height / size_hw[0] + box[1]
    return points
