"""The compiled ops that exist for the CPU alone: exact, well described to PyTorch, and clear about wrong arguments."""

import numpy as np
import pycocotools.mask as coco_mask
import pytest
import torch

from maskrcnn_benchmark.layers import _extension, reference
from maskrcnn_benchmark.layers.keypoint_ops import decode_heatmaps
from maskrcnn_benchmark.layers.mask_ops import paste_masks, rasterize_polygons

pytestmark = pytest.mark.skipif(not _extension.is_compiled(), reason="maskrcnn_benchmark._C is not built")
ops = torch.ops.maskrcnn_benchmark


@pytest.mark.parametrize("grain", [None, 1.0, 0.2, 0.1])  # on lines between cells, fifths, halves of fifths
@pytest.mark.parametrize("spread", [1.0, 3.0])
def test_polygons_of_any_kind_are_pycocotools_own(grain, spread):
    rng = np.random.default_rng(4)
    for size in (1, 3, 14, 28, 56):
        polygons = [rng.uniform(-spread + 1, spread, (int(rng.integers(3, 12)), 2)) * size for _ in range(20)]
        if grain:
            polygons = [(polygon / grain).round() * grain for polygon in polygons]
        extents = torch.tensor([[0.0, 0.0, size, size]]).expand(len(polygons), 4)
        drawn = rasterize_polygons([[polygon] for polygon in polygons], extents, size)
        for mask, polygon in zip(drawn.numpy(), polygons, strict=True):
            expected = coco_mask.decode(coco_mask.frPyObjects([polygon.ravel()], size, size))[..., 0]
            np.testing.assert_array_equal(mask, expected)


def test_peaks_of_maps_without_any_shape():
    torch.manual_seed(0)
    frames = torch.rand(10, 4) * 50
    frames[:, 2:] += frames[:, :2] + torch.tensor([1.0, 150.0])[torch.randint(2, (10, 2))]
    for size in (2, 7, 56):
        logits = torch.randn(10, 3, size, size) * torch.tensor([1e-3, 1.0, 1e4])[:, None, None]
        xy, scores = decode_heatmaps(logits, frames, "bicubic")
        expected_xy, expected_scores = reference.KERNELS["decode_bicubic"](logits, frames)
        # two pixels either side of a cell's centre may be equal but for rounding
        assert ((xy - expected_xy).abs() > 1e-3).any(dim=-1).sum() <= 1
        torch.testing.assert_close(scores, expected_scores, rtol=1e-4, atol=1e-6)


def test_threads_do_not_change_results():
    torch.manual_seed(1)
    logits, frames = torch.randn(9, 5, 14, 14), torch.tensor([[3.0, 4.0, 60.0, 90.0]]).repeat(9, 1)
    masks = torch.rand(9, 14, 14)
    polygons = [[np.random.default_rng(row).uniform(0, 90, (7, 2))] for row in range(9)]
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            drawn = rasterize_polygons(polygons * 9, frames.repeat(9, 1), 28)
            results.append((*decode_heatmaps(logits, frames), paste_masks(masks, frames, (80, 70)), drawn))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, many) for one, many in zip(*results, strict=True))


@pytest.mark.filterwarnings("ignore")
def test_registration():
    pasted = torch.zeros(2, 9, 8, dtype=torch.bool)
    extents = torch.tensor([[1.0, 1, 6, 7], [0, 0, 20, 20]], dtype=torch.float64)
    for zeroed in (True, False):
        torch.library.opcheck(ops.paste_masks_.default, (pasted, torch.rand(2, 4, 4), extents, 0.5, zeroed))
    torch.library.opcheck(ops.mask_run_lengths.default, (torch.rand(2, 4, 4), extents, 9, 8, 0.5))
    points = torch.tensor([[1.0, 1.0], [6.0, 2.0], [3.0, 7.0]], dtype=torch.float64)
    starts = torch.tensor([0, 3]), torch.tensor([0, 1])
    torch.library.opcheck(ops.rasterize_polygons.default, (points, *starts, torch.tensor([0, 0]), extents, 5))
    torch.library.opcheck(ops.decode_bicubic.default, (torch.rand(2, 3, 6, 5), extents.float()))


def test_errors():
    extents = torch.zeros(2, 4, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"masks must be \(R, M, M\) and extents \(R, 4\); got 3 and 2 dimensions"):
        ops.paste_masks_(torch.zeros(2, 5, 5, dtype=torch.bool), torch.rand(2, 4, 4), extents[:1], 0.5, True)
    with pytest.raises(RuntimeError, match=r"output must be contiguous \(2, height, width\) of bool or uint8"):
        ops.paste_masks_(torch.zeros(2, 5, 5), torch.rand(2, 4, 4), extents, 0.5, True)
    with pytest.raises(RuntimeError, match="the image must have pixels; got 0 x 5"):
        ops.mask_run_lengths(torch.rand(2, 4, 4), extents, 0, 5, 0.5)
    points, starts = torch.zeros(3, 2, dtype=torch.float64), torch.tensor([0, 3])
    with pytest.raises(RuntimeError, match="region 1 is of instance 4, there are 1"):
        ops.rasterize_polygons(points, starts, torch.tensor([0, 1]), torch.tensor([0, 4]), extents, 7)
    with pytest.raises(RuntimeError, match="parts must ascend from 0 to 3; entry 1 is 9"):
        ops.rasterize_polygons(points, starts * 3, torch.tensor([0, 1]), torch.tensor([0, 0]), extents, 7)
    with pytest.raises(RuntimeError, match="frame 0 is inf x 1 pixels, at most 1048576 a side are expected"):
        decode_heatmaps(torch.rand(1, 2, 4, 4), torch.tensor([[0.0, 0.0, torch.inf, 1.0]]))
