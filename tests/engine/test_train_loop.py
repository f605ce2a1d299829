"""The loop itself: accumulation, mixed precision, the guard against nan, stopping."""

import logging
import os
import signal

import pytest
import torch
from torch import nn

from maskrcnn_benchmark.engine.hooks import (
    CheckpointHook,
    Hook,
    LogHook,
    LossGuard,
    NonFiniteLossError,
    StopHook,
    check_finite_weights,
)
from maskrcnn_benchmark.engine.train_loop import Trainer
from tests.devices import DEVICES
from tests.engine.toy import Recorder, ToyDetector, ToyLoader


class SavedNames:
    """A checkpointer that remembers what it was asked to save."""

    def __init__(self):
        self.saved = []

    def save(self, name, **extra):
        self.saved.append((name, extra["iteration"]))


def make_trainer(model, loader, hooks=(), lr=0.05, **kwargs):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    return Trainer(model, loader, optimizer, scheduler, **{"device": "cpu", "max_iter": 6, "hooks": hooks, **kwargs})


def test_steps_are_those_of_a_loop_written_out():
    torch.manual_seed(1)
    model = ToyDetector(dropout=0)
    reference = ToyDetector(dropout=0)
    reference.load_state_dict(model.state_dict())
    recorder = Recorder()
    trainer = make_trainer(model, ToyLoader(6), [recorder])
    trainer.train()
    optimizer = torch.optim.SGD(reference.parameters(), lr=0.05, momentum=0.9)
    for step, (images, targets, _) in enumerate(ToyLoader(6)):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (1 + step)
        losses = reference(images, targets)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        assert recorder.losses[step] == {name: loss.item() for name, loss in losses.items()}
    assert trainer.iteration == 6
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


class Joined(ToyLoader):
    """The batches of a ToyLoader, `parts` at a time as one."""

    def __init__(self, length, parts):
        super().__init__(length)
        self.parts = parts

    def __iter__(self):
        batches = list(super().__iter__())
        for start in range(0, len(batches), self.parts):
            group = batches[start : start + self.parts]
            images = type(group[0][0])(
                torch.cat([b[0].tensors for b in group]), [s for b in group for s in b[0].image_sizes]
            )
            yield images, [t for b in group for t in b[1]], tuple(i for b in group for i in b[2])


def test_accumulated_batches_equal_one_large_batch():
    torch.manual_seed(1)
    small, large = ToyDetector(dropout=0).double(), ToyDetector(dropout=0).double()
    large.load_state_dict(small.state_dict())

    class Double(Joined):
        def __iter__(self):
            for images, targets, indices in super().__iter__():
                yield type(images)(images.tensors.double(), images.image_sizes), targets, indices

    recorders, seen = [Recorder(), Recorder()], []

    class Images(Hook):
        def after_step(self, trainer):
            seen.append(trainer.images)

    make_trainer(small, Double(12, 1), [recorders[0], Images()], max_iter=4, accumulate=3).train()
    make_trainer(large, Double(12, 3), [recorders[1], Images()], max_iter=4).train()
    assert seen[:4] == seen[4:], "all images of a step are known"
    for ours, theirs in zip(small.parameters(), large.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(recorders[0].losses, recorders[1].losses, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


def test_gradients_are_clipped_before_the_step_and_their_norm_is_kept():
    model = ToyDetector(dropout=0)
    before = [parameter.detach().clone() for parameter in model.parameters()]

    def clip(parameters):
        return torch.nn.utils.clip_grad_norm_(parameters, 1e-3)

    trainer = make_trainer(model, ToyLoader(1), max_iter=1, clip_gradients=clip)
    trainer.train()
    moved = (
        torch.cat([(new - old).flatten() for new, old in zip(model.parameters(), before, strict=True)]).norm().item()
    )
    assert moved == pytest.approx(0.05 * 1e-3, rel=1e-3)
    assert trainer.gradient_norm > 1e-3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_trains_in_that_precision_with_float32_weights(device, precision):
    seen = []
    model = ToyDetector(dropout=0).to(device)
    model.net[1].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    recorder = Recorder()
    trainer = make_trainer(model, ToyLoader(40), [recorder], device=device, max_iter=40, precision=precision)
    trainer.train()
    assert set(seen) == {getattr(torch, precision)}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert trainer.scaler.is_enabled() == (precision == "float16")
    first, last = (sum(sum(step.values()) for step in recorder.losses[part]) for part in (slice(0, 9), slice(31, 40)))
    assert last < first


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="DTYPE is 'int8'; it can be float32, float16, bfloat16"):
        make_trainer(ToyDetector(), ToyLoader(1), precision="int8")


def test_a_loader_that_ends_early_is_an_error():
    with pytest.raises(RuntimeError, match="ended after iteration 2 of 6; it has to offer 1 batches per iteration"):
        make_trainer(ToyDetector(), ToyLoader(2)).train()


@pytest.mark.parametrize("period", [1, 4, 20])
def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_images(period):
    describe = {i: f"image{i}" for i in range(20)}.get
    guard, checkpoints = LossGuard(period, describe, "Lower the rate."), SavedNames()
    hooks = [guard, CheckpointHook(checkpoints, 3, guard)]
    trainer = make_trainer(ToyDetector(0), ToyLoader(10, bad={4: float("nan")}), hooks, max_iter=10)
    with pytest.raises(NonFiniteLossError) as caught:
        trainer.train()
    message = str(caught.value)
    assert "not finite at iteration 5:" in message
    assert "loss_first nan" in message and "loss_second nan" in message
    assert "images of this batch: image8, image9" in message
    assert "of the batch before, whose update may be the cause: image6, image7" in message
    assert message.endswith("Lower the rate.")
    assert checkpoints.saved == [("model_0000003", 3)], "nothing is saved behind the bad batch"


def test_an_error_that_follows_from_a_nan_is_explained_by_it():
    class Fragile(ToyDetector):
        def forward(self, images, targets):
            if self.net[1].weight.isnan().any():
                raise IndexError("a strange consequence")
            return super().forward(images, targets)

    trainer = make_trainer(Fragile(0), ToyLoader(10, bad={2: float("inf")}), [LossGuard(20)], max_iter=10)
    with pytest.raises(NonFiniteLossError, match="not finite at iteration 3") as caught:
        trainer.train()
    assert isinstance(caught.value.__cause__, IndexError)
    trainer = make_trainer(ToyDetector(), ToyLoader(2), [LossGuard(20)])
    with pytest.raises(RuntimeError, match="loader ended"):  # an error without a nan stays as it is
        trainer.train()


def test_weights_that_are_not_finite_are_never_saved():
    class Poison(Hook):
        def after_step(self, trainer):
            if trainer.iteration == 3:
                trainer.model.net[1].bias.data[0] = float("inf")

    guard, checkpoints = LossGuard(20, advice="Do this."), SavedNames()
    trainer = make_trainer(ToyDetector(), ToyLoader(6), [Poison(), guard, CheckpointHook(checkpoints, 3, guard)])
    with pytest.raises(
        NonFiniteLossError, match=r"1 weights are not finite after iteration 3 \(net.1.bias\).*\n.*Do this"
    ):
        trainer.train()
    assert checkpoints.saved == []
    check_finite_weights(nn.BatchNorm1d(3), 1)


def test_checkpoints_come_periodically_and_at_the_end():
    guard, checkpoints = LossGuard(20), SavedNames()
    make_trainer(ToyDetector(), ToyLoader(6), [guard, CheckpointHook(checkpoints, 2, guard)]).train()
    assert checkpoints.saved == [("model_0000002", 2), ("model_0000004", 4), ("model_final", 6)]
    only_end = SavedNames()
    make_trainer(ToyDetector(), ToyLoader(6), [CheckpointHook(only_end, 0, guard)]).train()
    assert only_end.saved == [("model_final", 6)]


def test_sigterm_saves_a_checkpoint_and_ends_the_loop():
    class Terminate(Hook):
        def after_step(self, trainer):
            if trainer.iteration == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    guard, checkpoints, recorder = LossGuard(20), SavedNames(), Recorder()
    hooks = [Terminate(), StopHook(), CheckpointHook(checkpoints, 100, guard), recorder]
    trainer = make_trainer(ToyDetector(), ToyLoader(6), hooks)
    trainer.train()
    assert trainer.stop_reason == "SIGTERM"
    assert trainer.iteration == 2
    assert checkpoints.saved == [("model_0000002", 2)]
    assert signal.getsignal(signal.SIGTERM) is before, "the handler is taken back"


def test_log_hook_reads_losses_once_a_period(caplog):
    reports = []

    class Keep:
        def write_progress(self, progress, meters):
            reports.append((progress, str(meters)))

        def close(self):
            reports.append("closed")

    recorder = Recorder()
    trainer = make_trainer(ToyDetector(0), ToyLoader(5), [recorder, LogHook(2, [Keep()])], max_iter=5)
    trainer.train()
    assert [report[0].iteration for report in reports[:-1]] == [2, 4, 5]
    assert reports[-1] == "closed"
    progress, text = reports[1]
    expected = sum(sum(step.values()) for step in recorder.losses[2:4]) / 2
    assert progress.scalars["loss"] == pytest.approx(expected)
    assert progress.scalars["loss_first"] == pytest.approx(sum(s["loss_first"] for s in recorder.losses[2:4]) / 2)
    assert set(progress.scalars) == {"loss", "loss_first", "loss_second", "time", "data"}
    assert progress.eta_seconds > 0 and reports[2][0].eta_seconds == 0
    assert progress.lr == pytest.approx(0.05 / 5)
    mean_of_all = sum(sum(step.values()) for step in recorder.losses[:4]) / 4
    assert f"({mean_of_all:.4f})" in text
    assert progress.memory > 10


def test_time_in_pause_does_not_count(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    reports = []

    class Keep:
        def write_progress(self, progress, meters):
            reports.append(progress.scalars["time"])

        def close(self):
            pass

    class Slow(Hook):
        def after_step(self, trainer):
            now[0] += 1.0  # a step takes one second
            if trainer.iteration % 2 == 1:
                with trainer.pause():
                    now[0] += 100.0

    make_trainer(ToyDetector(), ToyLoader(6), [Slow(), LogHook(3, [Keep()])]).train()
    assert reports == pytest.approx([1.0, 1.0])


def test_hooks_close_after_an_error_too():
    events = []

    class Watch(Hook):
        def after_step(self, trainer):
            raise KeyError("broken hook")

        def on_error(self, trainer, error):
            events.append(type(error))

        def after_train(self, trainer):
            events.append("finished")

        def close(self, trainer):
            events.append("closed")

    with pytest.raises(KeyError):
        make_trainer(ToyDetector(), ToyLoader(6), [Watch()]).train()
    assert events == [KeyError, "closed"]
    assert logging.getLogger("maskrcnn_benchmark") is not None
