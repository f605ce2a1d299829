"""The training loop and the predictor on a simulated GPU: what a step waits for, and what only logging waits for."""

import contextlib
from collections import Counter

import numpy as np
import pytest
import torch

from maskrcnn_benchmark.engine.hooks import EMAHook, Hook, LogHook, LossGuard, StopHook
from maskrcnn_benchmark.engine.inference import compute_on_dataset
from maskrcnn_benchmark.engine.predictor import Predictor
from maskrcnn_benchmark.engine.train_loop import Trainer
from maskrcnn_benchmark.modeling.detector import AugmentedDetector
from maskrcnn_benchmark.solver import ModelEMA, make_gradient_clipper, make_lr_scheduler, make_optimizer
from maskrcnn_benchmark.structures import fields
from maskrcnn_benchmark.structures.image_list import to_image_list
from maskrcnn_benchmark.structures.image_views import FLIP_TESTS, ImageViews
from tests.engine.toy import Keep
from tests.modeling.test_on_simulated_cuda import WAITS_OF_TRAINING, batch, check_detections
from tests.modeling.tiny import ALL_HEADS, tiny_cfg, tiny_detector
from tests.simulated_cuda import NO_SIMULATION, simulated_cuda
from tests.small_model import write_small_model

pytestmark = pytest.mark.skipif(NO_SIMULATION is not None, reason=str(NO_SIMULATION))

LOG_PERIOD = 3
# what a step waits for besides, when its losses are looked at and written
WAITS_OF_LOGGING = {
    ("engine/hooks.py:LossGuard._first_bad", "_to_copy"): 1,
    ("engine/hooks.py:LogHook._report", "_to_copy"): 1,
}


class WaitsPerStep(Hook):
    def __init__(self, device):
        self.device, self.counts = device, []

    def after_step(self, trainer):
        self.counts.append(dict(self.device.waits))
        self.device.waits.clear()


def train(cfg, name, device=None, *, steps=4, precision="float32", accumulate=1):
    """Logged losses, weights and mean weights after some steps, and on the simulated device the waits of each."""
    torch.manual_seed(0)
    model = tiny_detector(cfg).to(name)
    optimizer = make_optimizer(cfg, model)
    pixels, targets = batch(cfg)
    images = to_image_list(pixels)
    if device:
        images, targets = images.pin_memory(), [target.pin_memory() for target in targets]  # as the loader does
    batches = [(images, targets, (0, 1, 2))] * (steps * accumulate)
    ema, lines, waits = ModelEMA(model, 0.9), Keep(), WaitsPerStep(device)
    hooks = [EMAHook(ema), LossGuard(LOG_PERIOD), LogHook(LOG_PERIOD, [lines]), StopHook()]
    trainer = Trainer(
        model,
        batches,
        optimizer,
        make_lr_scheduler(cfg, optimizer),
        device=name,
        max_iter=steps,
        precision=precision,
        accumulate=accumulate,
        clip_gradients=make_gradient_clipper(cfg),
        hooks=[*hooks, waits] if device else hooks,
    )
    if device:
        device.waits.clear()
    trainer.train()
    weights = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    means = {key: value.cpu() for key, value in ema.weights.items()}
    return lines.losses, weights, means, waits.counts


@pytest.mark.parametrize(
    ("optimizer", "clip", "accumulate"), [("SGD", "norm", 1), ("SGD", "value", 2), ("AdamW", "norm", 1)]
)
def test_training(optimizer, clip, accumulate):
    cfg = tiny_cfg(*ALL_HEADS, "SOLVER.OPTIMIZER", optimizer, "SOLVER.BASE_LR", 0.001)
    cfg.merge_from_list(["SOLVER.CLIP_GRADIENTS.ENABLED", True, "SOLVER.CLIP_GRADIENTS.TYPE", clip])
    expected = train(cfg, "cpu", accumulate=accumulate)
    with simulated_cuda() as device:
        found = train(cfg, "cuda", device, accumulate=accumulate)
    torch.testing.assert_close(found[0], expected[0])
    if optimizer == "SGD":  # AdamW divides gradients that are rounding errors by their own size
        torch.testing.assert_close(found[1:3], expected[1:3])
    plain = Counter(WAITS_OF_TRAINING)
    for _ in range(accumulate - 1):
        plain.update(WAITS_OF_TRAINING)
    assert found[3] == [plain, plain, plain | Counter(WAITS_OF_LOGGING), plain | Counter(WAITS_OF_LOGGING)]


def test_scaling_of_losses_does_not_wait(monkeypatch):
    """Autocast itself does nothing here: it acts on what PyTorch's C++ side takes for a CUDA tensor."""
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    cfg = tiny_cfg(*ALL_HEADS, "SOLVER.CLIP_GRADIENTS.ENABLED", True)
    with simulated_cuda() as device:
        losses, weights, _, waits = train(cfg, "cuda", device, precision="float16", steps=2)
    assert waits[0] == WAITS_OF_TRAINING and len(losses) == 1
    assert all(value.isfinite().all() for value in weights.values())


class Batches:
    """A loader of one batch."""

    def __init__(self, pixels):
        self.pixels = pixels

    def __iter__(self):
        yield to_image_list(self.pixels), None, (4, 7, 5)

    def __len__(self):
        return 1


def test_the_test_loop_brings_detections_home():
    cfg = tiny_cfg(*ALL_HEADS)
    pixels, _ = batch(cfg)
    model = tiny_detector(cfg)
    expected = compute_on_dataset(model, Batches(pixels), "cpu")
    with simulated_cuda():
        found = compute_on_dataset(model.to("cuda"), Batches(pixels), "cuda")
        assert list(found) == list(expected) == [4, 7, 5] and any(len(detections) for detections in found.values())
        for index, detections in found.items():
            assert detections.bbox.device.type == "cpu"
            check_detections(detections.to("cuda"), expected[index])


def test_predictor(tmp_path, monkeypatch):
    config_file, weights = write_small_model(tmp_path)
    predictor = Predictor.from_config_file(config_file, weights=weights)
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    expected = predictor(image, "RGB")
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    with simulated_cuda() as device:
        predictor.device = torch.device("cuda:0")
        predictor.model.to("cuda")
        prepared = predictor.prepare(image, "RGB")
        device.waits.clear()
        pending = predictor.start([prepared])
        before = device.waits.copy()
        found = pending.wait()[0]
    # handing over waits for numbers of proposals and detections alone; the detections come when they are asked for
    assert {operation for _, operation in before} == {"nonzero"} and before.total() == 3
    assert device.waits - before == {("engine/predictor.py:PendingDetections.wait", "Event.synchronize"): 1}
    assert found.fields() == expected.fields() and len(found) > 0
    torch.testing.assert_close(found.bbox, expected.bbox)
    torch.testing.assert_close(found.get_field(fields.MASK), expected.get_field(fields.MASK))


@pytest.mark.parametrize(("flips", "flip_tests", "views"), [((False, True), (), 4), ((False,), FLIP_TESTS, 2)])
def test_augmented_tests_wait_for_counts_of_boxes_only(flips, flip_tests, views):
    cfg = tiny_cfg(*ALL_HEADS, "MODEL.ROI_HEADS.SCORE_THRESH", 0.2, "MODEL.ROI_KEYPOINT_HEAD.DECODE", "dark")
    cfg.merge_from_list(["MODEL.ROI_REFINE_HEAD.DECODE", "dark"])
    cfg.merge_from_list(["MODEL.ROI_HEADS.DETECTIONS_PER_IMG", 5])
    pixels, _ = batch(cfg, images=2)
    model = tiny_detector(cfg).eval()
    sizes = (to_image_list(pixels), to_image_list([image[:, ::2, ::2] for image in pixels]))
    images = ImageViews(sizes, (flips,) * 2, flip_tests)
    expected = AugmentedDetector(model)(images, "cpu")
    with simulated_cuda() as device:
        augmented = AugmentedDetector(model.to("cuda"))
        images = images.pin_memory()
        device.waits.clear()
        found = augmented(images, "cuda")
        waits = dict(device.waits)
        for boxes, boxes_on_cpu in zip((found.to("cpu") for found in found), expected, strict=True):
            assert len(boxes) == len(boxes_on_cpu) == 5
            torch.testing.assert_close(boxes.bbox, boxes_on_cpu.bbox, rtol=1e-4, atol=1e-4)
            masks, points = boxes.get_field(fields.MASK), boxes.get_field(fields.KEYPOINTS).keypoints
            torch.testing.assert_close(masks, boxes_on_cpu.get_field(fields.MASK), rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(points, boxes_on_cpu.get_field(fields.KEYPOINTS).keypoints, rtol=1e-4, atol=1e-2)
    # of each view the numbers of proposals and candidates, and the number of detections; nothing in the second pass,
    # nor in the images of a flip test
    assert waits == {
        ("modeling/selection.py:split_rows", "_to_copy"): views + 1,
        ("layers/reference/candidates.py:classes_above", "nonzero"): views,
    }
