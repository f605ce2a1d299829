"""The transforms that a config asks for."""

from __future__ import annotations

from typing import Any

from maskrcnn_benchmark.data.transforms import transforms as T


def build_transforms(cfg: Any, is_train: bool = True) -> T.Compose:
    """Augmentation (for training), scaling to the network's input size and normalisation, from `cfg.INPUT`."""
    node = cfg.INPUT
    steps: list[Any] = []
    if is_train:
        jitter = (node.BRIGHTNESS, node.CONTRAST, node.SATURATION, node.HUE)
        if any(jitter):
            steps.append(T.ColorJitter(*jitter))
        steps.append(T.Resize(node.MIN_SIZE_TRAIN, node.MAX_SIZE_TRAIN))
        if node.HORIZONTAL_FLIP_PROB_TRAIN:
            steps.append(T.RandomHorizontalFlip(node.HORIZONTAL_FLIP_PROB_TRAIN))
        if node.VERTICAL_FLIP_PROB_TRAIN:
            steps.append(T.RandomVerticalFlip(node.VERTICAL_FLIP_PROB_TRAIN))
    else:
        steps.append(T.Resize(node.MIN_SIZE_TEST, node.MAX_SIZE_TEST))
    steps += [T.ToTensor(), T.Normalize(node.PIXEL_MEAN, node.PIXEL_STD, node.TO_BGR255, node.FORMAT)]
    return T.Compose(steps)
