import pytest
import torch

from maskrcnn_benchmark.config import ConfigError, get_cfg
from maskrcnn_benchmark.structures.image_list import to_image_list
from maskrcnn_benchmark.structures.image_views import ImageViews, ViewSize, mirror_images

BOTH = (False, True)


def sizes(*opts):
    cfg = get_cfg()
    cfg.merge_from_list(["INPUT.MIN_SIZE_TEST", 800, "INPUT.MAX_SIZE_TEST", 1333, *opts])
    return [(size.min_size, size.max_size, size.flips) for size in ViewSize.from_cfg(cfg)]


def aug(**keys):
    return [entry for key, value in {"ENABLED": True, **keys}.items() for entry in (f"TEST.BBOX_AUG.{key}", value)]


def test_the_views_of_a_config():
    assert sizes() == sizes("TEST.BBOX_AUG.H_FLIP", True, "TEST.BBOX_AUG.SCALES", (600,)) == []
    base, one = (800, 1333, (False,)), (False,)
    assert sizes(*aug()) == [base]
    assert sizes(*aug(H_FLIP=True)) == [(800, 1333, BOTH)]
    assert sizes(*aug(SCALES=(600, 1200), MAX_SIZE=2000)) == [base, (600, 2000, one), (1200, 2000, one)]
    assert sizes(*aug(SCALES=(600,), SCALE_H_FLIP=True)) == [base, (600, 4000, BOTH)]


def test_the_pairs_of_the_fork_are_views_too():
    multi = ["TEST.MULTI_SCALE", True, "TEST.MULTI_SIZES", [(480, 800), (800, 1333), (480, 800)]]
    base, small = (800, 1333, (False,)), (480, 800, (False,))
    assert sizes(*multi) == [base, small], "each once, the size of the results first"
    assert sizes(*multi, "TEST.BBOX_AUG.H_FLIP", True) == [base, small], "H_FLIP is read if BBOX_AUG is on"
    mirrored = sizes(*multi, *aug(H_FLIP=True, SCALE_H_FLIP=True, SCALES=(600,), MAX_SIZE=1000))
    assert mirrored == [(800, 1333, BOTH), (600, 1000, BOTH), (480, 800, BOTH)]


@pytest.mark.parametrize(
    ("opts", "message"),
    [
        (aug(SCALES=(600, 0)), r"TEST.BBOX_AUG.SCALES has 0; expected lengths"),
        (aug(SCALES=(0.5,)), r"TEST.BBOX_AUG.SCALES has 0.5; expected lengths"),
        (aug(SCALES=(600,), MAX_SIZE=-1), "TEST.BBOX_AUG.MAX_SIZE is -1"),
        (["TEST.MULTI_SCALE", True, "TEST.MULTI_SIZES", [800]], "TEST.MULTI_SIZES has 800; expected pairs"),
        (["TEST.MULTI_SCALE", True, "TEST.MULTI_SIZES", [(800, 0)]], r"TEST.MULTI_SIZES has \(800, 0\)"),
    ],
)
def test_sizes_that_cannot_be_are_refused(opts, message):
    with pytest.raises(ConfigError, match=message):
        sizes(*opts)


def test_a_config_for_one_size():
    cfg = get_cfg()
    cfg.merge_from_list(aug(SCALES=(600,)))
    cfg.freeze()
    other = ViewSize.from_cfg(cfg)[1].applied_to(cfg)
    assert (other.INPUT.MIN_SIZE_TEST, other.INPUT.MAX_SIZE_TEST) == (600, 4000)
    assert ViewSize.from_cfg(other) == () and len(ViewSize.from_cfg(cfg)) == 2


def test_each_image_is_mirrored_within_its_own_size():
    images = to_image_list([torch.arange(6.0).reshape(1, 2, 3), torch.arange(8.0).reshape(1, 2, 4) + 10], 4)
    mirrored = mirror_images(images)
    assert mirrored.image_sizes == images.image_sizes
    assert mirrored.tensors[:, 0, :2].tolist() == [
        [[2, 1, 0, 0], [5, 4, 3, 0]],
        [[13, 12, 11, 10], [17, 16, 15, 14]],
    ]
    assert (mirrored.tensors[:, 0, 2:] == 0).all()


def test_views_go_size_by_size():
    small, large = (to_image_list([torch.zeros(1, side, side)] * 3) for side in (4, 8))
    images = ImageViews((small, large), (BOTH, (False,)))
    assert len(images) == 3
    assert images.views == [(small, False), (small, True), (large, False)]
