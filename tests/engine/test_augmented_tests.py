"""The test loop with test-time augmentation, from the config to results."""

import contextlib
import io

import numpy as np
import pytest
import torch
from PIL import Image

from maskrcnn_benchmark.config import ConfigError, load_config
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.data.transforms import Resize, build_transforms
from maskrcnn_benchmark.engine.inference import compute_on_dataset, run_tests
from maskrcnn_benchmark.modeling.detector import AugmentedDetector, build_detection_model, find_config_problems
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.image_list import ImageList, to_image_list
from maskrcnn_benchmark.structures.image_views import ImageViews, ViewSize
from tests.config.test_checks import CONFIGS
from tests.modeling.detector.test_shipped_configs_run import with_few_channels
from tests.small_model import write_small_model
from tests.tools.runs import write_people

FLIPS = ("TEST.BBOX_AUG.ENABLED", True, "TEST.BBOX_AUG.H_FLIP", True)
SCALES = ("TEST.BBOX_AUG.SCALES", (64, 96), "TEST.BBOX_AUG.MAX_SIZE", 110)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_people(tmp_path_factory.mktemp("augmented"), train=1, val=3)
    write_small_model(folder)
    return folder


@pytest.fixture
def config(folder, monkeypatch):
    monkeypatch.setenv("MASKRCNN_BENCHMARK_DATASETS", str(folder))

    def load(*opts):
        return load_config(folder / "config.yml", ["TEST.IMS_PER_BATCH", 2, *opts])

    return load


def loader_of(cfg):
    return make_data_loader(cfg, is_train=False)[0]


@pytest.mark.parametrize("workers", [0, 1])
def test_every_size_is_resized_from_the_file(config, workers):
    cfg = config(*FLIPS, *SCALES, "DATALOADER.NUM_WORKERS", workers)
    batches = list(loader_of(cfg))
    assert [indices for _, _, indices in batches] == [(0, 1), (2,)]
    for size, opts in enumerate(
        [
            (),
            ("INPUT.MIN_SIZE_TEST", 64, "INPUT.MAX_SIZE_TEST", 110),
            ("INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 110),
        ]
    ):
        for (images, targets, indices), (expected, same_targets, _) in zip(
            batches, loader_of(config(*opts)), strict=True
        ):
            assert isinstance(images, ImageViews) and isinstance(expected, ImageList) and len(images) == len(indices)
            assert torch.equal(images.images[size].tensors, expected.tensors)
            assert images.images[size].image_sizes == expected.image_sizes
            if size == 0:
                assert [target.size for target in targets] == [target.size for target in same_targets]
    assert batches[0][0].flips == ((False, True), (False,), (False,))


def test_a_network_sees_one_size_of_a_batch_at_a_time(config):
    cfg = config(*FLIPS, *SCALES)
    model = build_detection_model(cfg).eval()
    seen = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape)))
    compute_on_dataset(model, loader_of(cfg), "cpu")
    resize = [Resize(*sides).get_size((128, 96)) for sides in ((80, 200), (64, 110), (96, 110))]
    padded = [(2, 3, *(-(-side // 32) * 32 for side in size)) for size in resize]
    first = [padded[0], *padded]
    assert seen[:7] == [*first, *first[-2::-1]], "all views, and back to the first"


def test_one_view_is_the_ordinary_test(config):
    cfg = config("TEST.BBOX_AUG.ENABLED", True)
    model = build_detection_model(cfg)
    found = compute_on_dataset(model, loader_of(cfg), "cpu", True)
    expected = compute_on_dataset(model, loader_of(config()), "cpu")
    assert list(found) == list(expected)
    for index, boxes in expected.items():
        assert len(boxes) > 0 and torch.equal(found[index].bbox, boxes.bbox)
        assert torch.equal(found[index].get_field(fields.MASK), boxes.get_field(fields.MASK))


def test_a_loader_without_views_is_refused(config):
    with pytest.raises(ValueError, match="make it by make_data_loader from a config"):
        compute_on_dataset(build_detection_model(config()), loader_of(config()), "cpu", True)


@pytest.mark.slow
@pytest.mark.parametrize("opts", [(*FLIPS, *SCALES), ("TEST.MULTI_SCALE", True, "TEST.MULTI_SIZES", [(64, 100)])])
def test_results_of_all_tasks(config, opts, tmp_path):
    cfg = config(*opts, "OUTPUT_DIR", str(tmp_path), "TEST.PICTURES", 1, "TEST.IMS_PER_BATCH", 3)
    model = build_detection_model(cfg)
    with contextlib.redirect_stderr(io.StringIO()):
        results = run_tests(cfg, model, [loader_of(cfg)], "cpu")
    assert {"bbox", "segm", "keypoints"} < set(results["people_val"].metrics)
    assert (tmp_path / "inference" / "people_val" / "keypoints.json").is_file()


def test_a_config_that_cannot_be_augmented_is_refused_at_the_start(config):
    assert find_config_problems(config(*FLIPS, *SCALES)) == []
    five = ("MODEL.ROI_KEYPOINT_HEAD.NUM_CLASSES", 5)
    assert find_config_problems(config(*five, *FLIPS)) == [], "the data may name them"
    no_heads = ("MODEL.MASK_ON", False, "MODEL.KEYPOINT_ON", False, "MODEL.REFINE_ON", False, "MODEL.RPN_ONLY", True)
    (problem,) = find_config_problems(config(*no_heads, *FLIPS))
    assert "the model predicts only proposals: RPN_ONLY is True" in problem
    problems = find_config_problems(config("TEST.BBOX_AUG.ENABLED", True, "TEST.BBOX_AUG.SCALES", (0, -1)))
    assert len(problems) == 2 and all("expected lengths of the shorter side" in problem for problem in problems)
    with pytest.raises(ConfigError, match="SCALES has 0"):
        loader_of(config("TEST.BBOX_AUG.ENABLED", True, "TEST.BBOX_AUG.SCALES", (0,)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "views"), [("e2e_mask_rcnn_R_50_FPN_1x", 18), ("e2e_keypoint_rcnn_R_50_FPN_1x_flip", 2)]
)
def test_shipped_configs_detect_in_all_their_views(file, views):
    cfg = with_few_channels(CONFIGS / "test_time_aug" / f"{file}.yaml")
    assert sum(len(size.flips) for size in ViewSize.from_cfg(cfg)) == views
    model = build_detection_model(cfg).eval()
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8))
    sizes = [size.applied_to(cfg) for size in ViewSize.from_cfg(cfg)]
    for size in sizes:  # a tenth of the size
        size.INPUT.MIN_SIZE_TEST, size.INPUT.MAX_SIZE_TEST = (
            size.INPUT.MIN_SIZE_TEST // 10,
            size.INPUT.MAX_SIZE_TEST // 10,
        )
    images = tuple(to_image_list([build_transforms(size, is_train=False)(picture)[0]], 32) for size in sizes)
    (found,) = AugmentedDetector(model)(ImageViews(images, tuple(size.flips for size in ViewSize.from_cfg(cfg))), "cpu")
    assert found.size == (120, 80) and {fields.SCORES, fields.LABELS} < set(found.fields())
