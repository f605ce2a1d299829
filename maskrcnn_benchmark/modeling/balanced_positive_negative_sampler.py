"""A random choice of foreground and background, in a fixed proportion, for all images at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Sample(NamedTuple):
    """Up to B entries of each of N images: positives, then negatives, then places that found no entry."""

    idxs: Tensor  # (N, B) int64 into the images' entries; any entry where not filled
    is_positive: Tensor  # (N, B) bool; false where not filled
    is_negative: Tensor  # (N, B) bool; false where not filled

    @property
    def filled(self) -> Tensor:
        """(N, B) bool."""
        return self.is_positive | self.is_negative


class BalancedPositiveNegativeSampler:
    """Up to `batch_size_per_image` entries per image: as many positives as there are up to a share, then negatives.

    Args:
        batch_size_per_image: B.
        positive_fraction: largest share of positives among B. Where they are fewer, negatives take their places; where
            negatives are fewer, their places stay empty.
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
            labels: (N, A) integer: >= 1 positive, 0 negative, < 0 never taken.
        Returns: B places per image, A where that is less. Every choice is equally likely, by torch's generator of the
            labels' device; nothing waits for a GPU.
        """
        # each kind is shuffled by keys of its own, and the largest keys win; what is not of the kind has a negative key
        keys = torch.rand(labels.shape, device=labels.device)
        positive_idxs, is_positive = _largest(torch.where(labels >= 1, keys, -1.0), self.max_positives)
        negative_idxs, is_negative = _largest(torch.where(labels == 0, keys, -1.0), self.batch_size_per_image)
        places_left = self.batch_size_per_image - is_positive.sum(dim=1, keepdim=True)
        is_negative &= torch.arange(is_negative.shape[1], device=labels.device) < places_left

        # the filled places to the front: there are no more than B of them, nor than entries
        idxs = torch.cat([positive_idxs, negative_idxs], dim=1)
        kinds = torch.cat([2 * is_positive.to(torch.int8), is_negative.to(torch.int8)], dim=1)
        kinds, order = kinds.sort(dim=1, descending=True, stable=True)
        num_places = min(self.batch_size_per_image, labels.shape[1])
        kinds, order = kinds[:, :num_places], order[:, :num_places]
        return Sample(idxs.gather(1, order), kinds == 2, kinds == 1)


def _largest(keys: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Indices (N, K) of the `count` largest keys of each row (N, A), or of all A, and whether each is not negative."""
    values, idxs = keys.topk(min(count, keys.shape[1]), dim=1)
    return idxs, values >= 0
