"""The sigmas that OKS is computed with."""

from __future__ import annotations

from collections.abc import Sequence

from maskrcnn_benchmark.data.datasets.base import DetectionDataset
from maskrcnn_benchmark.structures.known_skeletons import COCO_PERSON
from maskrcnn_benchmark.structures.skeleton import UNIFORM_SIGMA


def oks_sigmas(dataset: DetectionDataset, given: Sequence[float] = ()) -> tuple[float, ...]:
    """One sigma for each keypoint: the given ones, else the data set's, else the same for all.

    Args:
        dataset: a data set that does not describe its keypoints has COCO's.
        given: TEST.KEYPOINT_OKS_SIGMAS.
    """
    return tuple(given) or (dataset.keypoint_spec or COCO_PERSON).oks_sigmas


def uniform_sigma_note(dataset: DetectionDataset, given: Sequence[float] = ()) -> str | None:
    """A sentence for the results if the sigmas are the same for all keypoints because none are known, else None."""
    spec = dataset.keypoint_spec
    if given or spec is None or spec.sigmas:
        return None
    return (
        f"OKS is computed with the sigma {UNIFORM_SIGMA} for each of the {len(spec)} keypoints, because neither "
        "TEST.KEYPOINT_OKS_SIGMAS nor the data set has sigmas. AP is comparable with that of equal sigmas only."
    )
