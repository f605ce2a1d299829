"""Sample foreground and background at random, in a fixed proportion, for all images at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Sample(NamedTuple):
    """Up to B entries of each of N images: positives, then negatives, then padding.

    Attributes:
        idxs: (N, B) int64 indices of entries; arbitrary in the padding.
        is_positive: (N, B) bool; False in the padding.
        is_negative: (N, B) bool; False in the padding.
    """

    idxs: Tensor
    is_positive: Tensor
    is_negative: Tensor

    @property
    def filled(self) -> Tensor:
        """(N, B) bool; False in the padding."""
        return self.is_positive | self.is_negative


class BalancedPositiveNegativeSampler:
    """Sample up to `batch_size_per_image` entries per image: positives up to a maximum share, then negatives.

    Args:
        batch_size_per_image: B.
        positive_fraction: maximum share of positives among B. Negatives fill the places of missing positives; places of
            missing negatives stay empty.
    Raises: ValueError for a size below 1 or a fraction outside [0, 1].
    """

    def __init__(self, batch_size_per_image: int, positive_fraction: float) -> None:
        if batch_size_per_image < 1 or not 0 <= positive_fraction <= 1:
            raise ValueError(
                f"BATCH_SIZE_PER_IMAGE is {batch_size_per_image} and POSITIVE_FRACTION {positive_fraction}; "
                "expected at least 1, and a share in [0, 1]"
            )
        self.batch_size_per_image = batch_size_per_image
        self.max_positives = int(batch_size_per_image * positive_fraction)

    def __call__(self, labels: Tensor) -> Sample:
        """
        Args:
            labels: (N, A) integer: >= 1 positive, 0 negative, < 0 ignored.
        Returns: min(A, B) places per image. Every choice is equally likely, by the default generator of the labels'
            device. Does not synchronise with a GPU.
        """
        # sample the largest of random keys; entries that must not be sampled get a negative key
        keys = torch.rand(labels.shape, device=labels.device)
        positive_idxs, is_positive = _largest(torch.where(labels >= 1, keys, -1.0), self.max_positives)
        negative_idxs, is_negative = _largest(torch.where(labels == 0, keys, -1.0), self.batch_size_per_image)
        places_left = self.batch_size_per_image - is_positive.sum(dim=1, keepdim=True)
        is_negative &= torch.arange(is_negative.shape[1], device=labels.device) < places_left

        # move the filled places to the front: there are at most min(A, B)
        idxs = torch.cat([positive_idxs, negative_idxs], dim=1)
        kinds = torch.cat([2 * is_positive.to(torch.int8), is_negative.to(torch.int8)], dim=1)
        kinds, order = kinds.sort(dim=1, descending=True, stable=True)
        num_places = min(self.batch_size_per_image, labels.shape[1])
        kinds, order = kinds[:, :num_places], order[:, :num_places]
        return Sample(idxs.gather(1, order), kinds == 2, kinds == 1)


def _largest(keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices (N, K) of the largest keys of each row (N, A), K = min(count, A); and (N, K) bool: is the key >= 0?"""
    values, idxs = keys.topk(min(count, keys.shape[1]), dim=1)
    return idxs, values >= 0
