"""What happens around the steps of a `Trainer`: logs, checkpoints, evaluation, guards."""

from __future__ import annotations

import logging
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.metric_logger import MetricLogger

from .seed import random_state, restore_random_state
from .writers import Progress, Writer

if TYPE_CHECKING:
    from .train_loop import Trainer

logger = logging.getLogger(__name__)


class Hook:
    """Base of all hooks: each method may be left as it is. All ranks call all hooks in the same order."""

    def before_train(self, trainer: Trainer) -> None:
        """Once, when the loader has started and before the first step."""

    def after_step(self, trainer: Trainer) -> None:
        """After each step; `trainer.iteration` already counts it."""

    def after_train(self, trainer: Trainer) -> None:
        """Once, after the last step, unless an error ended the loop."""

    def on_error(self, trainer: Trainer, error: Exception) -> None:
        """When a step or a hook raised; may raise something that explains it better."""

    def close(self, trainer: Trainer) -> None:
        """Once, at the end, whatever happened."""


class NonFiniteLossError(RuntimeError):
    """A loss or a weight became nan or inf."""


@dataclass(frozen=True)
class _StepRecord:
    iteration: int
    images: Sequence[int]
    losses: Mapping[str, Tensor]

    def is_finite(self) -> Tensor:
        return torch.stack([loss.isfinite().all() for loss in self.losses.values()]).all()


class LossGuard(Hook):
    """Ends the run, with a message that names images, when a loss is nan or inf.

    Asking the GPU after each step would make it wait, so the losses of `period` steps are looked at together; the
    message names the first bad one all the same. A checkpoint is only written after a look (`check`).

    Args:
        period: steps between looks.
        describe_image: index into the training set -> what to call the image in the message.
        advice: sentences that end the message: what to do.
    """

    def __init__(self, period: int, describe_image: Callable[[int], str] = str, advice: str = "") -> None:
        self.period = period
        self.describe_image = describe_image
        self.advice = advice
        self._unchecked: list[_StepRecord] = []
        self._last_good: _StepRecord | None = None

    def after_step(self, trainer: Trainer) -> None:
        self._unchecked.append(_StepRecord(trainer.iteration, tuple(trainer.images), trainer.losses))
        if trainer.iteration % self.period == 0 or trainer.iteration == trainer.max_iter:
            self.check()

    def check(self) -> None:
        """Look at all losses since the last look, on all ranks. Raises NonFiniteLossError on all of them."""
        bad = self._first_bad()
        reports = [report for report in comm.all_gather(self._report(bad)) if report]
        if reports:
            first = min(iteration for iteration, _ in reports)
            self._fail(first, [text for iteration, text in reports if iteration == first])
        if self._unchecked:
            self._last_good = self._unchecked[-1]
        self._unchecked.clear()

    def on_error(self, trainer: Trainer, error: Exception) -> None:
        """Other errors often follow from a nan some steps before: then that is what is reported."""
        if isinstance(error, NonFiniteLossError):
            return
        bad = self._first_bad()
        if bad is not None:
            report = self._report(bad)
            assert report is not None
            try:
                self._fail(report[0], [report[1]])
            except NonFiniteLossError as explanation:
                raise explanation from error

    def _first_bad(self) -> int | None:
        if not self._unchecked:
            return None
        finite = torch.stack([record.is_finite() for record in self._unchecked]).tolist()
        return finite.index(False) if False in finite else None

    def _report(self, bad: int | None) -> tuple[int, str] | None:
        if bad is None:
            return None
        record = self._unchecked[bad]
        before = self._unchecked[bad - 1] if bad else self._last_good
        parts = ", ".join(f"{name} {float(loss):.4g}" for name, loss in record.losses.items())
        text = f"{parts}; images of this batch: {self._names(record)}"
        if before is not None:
            text += f"; of the batch before, whose update may be the cause: {self._names(before)}"
        return record.iteration, text

    def _names(self, record: _StepRecord) -> str:
        return ", ".join(self.describe_image(int(index)) for index in record.images)

    def _fail(self, iteration: int, texts: Sequence[str]) -> None:
        lines = [f"the loss is not finite at iteration {iteration}:", *texts]
        raise NonFiniteLossError("\n  ".join([*lines, *filter(None, [self.advice])]))


class LogHook(Hook):
    """Gathers losses and times, and hands their figures to the writers every `period` steps: the one place that waits.

    Losses are averaged over the ranks; the writers exist on the main rank only.
    """

    def __init__(self, period: int, writers: Sequence[Writer] = ()) -> None:
        self.period = period
        self.writers = list(writers)
        self.meters = MetricLogger(delimiter="  ")
        self._losses: list[dict[str, Tensor]] = []
        self._data_times: list[float] = []
        self._window_start = self._pause_at_start = 0.0

    def before_train(self, trainer: Trainer) -> None:
        self._start_window(trainer)

    def after_step(self, trainer: Trainer) -> None:
        losses = dict(trainer.losses)
        if trainer.gradient_norm is not None:
            losses["grad_norm"] = trainer.gradient_norm.detach()
        self._losses.append(losses)
        self._data_times.append(trainer.data_time)
        if trainer.iteration % self.period == 0 or trainer.iteration == trainer.max_iter:
            self._report(trainer)

    def close(self, trainer: Trainer) -> None:
        for writer in self.writers:
            writer.close()

    def _report(self, trainer: Trainer) -> None:
        steps = len(self._losses)
        stacked = {name: torch.stack([losses[name] for losses in self._losses]) for name in self._losses[0]}
        reduced = comm.reduce_dict(stacked)
        values = dict(zip(reduced, torch.stack(list(reduced.values())).tolist(), strict=True))
        parts = [series for name, series in values.items() if name != "grad_norm"]
        values["loss"] = [sum(losses_of_step) for losses_of_step in zip(*parts, strict=True)]
        # Reading the losses has waited for the GPU, so the clock now shows what the steps really took.
        elapsed = time.perf_counter() - self._window_start - (trainer.pause_seconds - self._pause_at_start)
        for step in range(steps):
            self.meters.update(loss=values["loss"][step])
            self.meters.update(**{name: series[step] for name, series in values.items() if name != "loss"})
            self.meters.update(time=elapsed / steps, data=self._data_times[step])
        seconds_left = self.meters.meters["time"].global_avg * (trainer.max_iter - trainer.iteration)
        scalars = {name: sum(series) / steps for name, series in values.items()}
        scalars.update(time=elapsed / steps, data=sum(self._data_times) / steps)
        progress = Progress(
            iteration=trainer.iteration,
            max_iter=trainer.max_iter,
            eta_seconds=seconds_left,
            scalars=scalars,
            lr=trainer.optimizer.param_groups[0]["lr"],
            memory=peak_memory(trainer.device),
        )
        for writer in self.writers:
            writer.write_progress(progress, self.meters)
        self._start_window(trainer)

    def _start_window(self, trainer: Trainer) -> None:
        self._losses, self._data_times = [], []
        self._window_start, self._pause_at_start = time.perf_counter(), trainer.pause_seconds


class StopHook(Hook):
    """SIGTERM, as from a scheduler that takes the machine back, ends the loop; a CheckpointHook behind this one saves.

    Ranks get the signal at different times and must stop at the same step, so several of them ask each other every
    few steps.
    """

    STEPS_BETWEEN_QUESTIONS = 5

    def __init__(self, signals: Sequence[signal.Signals] = (signal.SIGTERM,)) -> None:
        self.signals = signals
        self.received: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def before_train(self, trainer: Trainer) -> None:
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread set handlers
            self._previous = {number: signal.signal(number, self._note) for number in self.signals}

    def after_step(self, trainer: Trainer) -> None:
        received = self.received
        if comm.get_world_size() > 1:
            if trainer.iteration % self.STEPS_BETWEEN_QUESTIONS:
                return
            received = next((name for name in comm.all_gather(self.received) if name), None)
        if received:
            trainer.stop_reason = received

    def close(self, trainer: Trainer) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: Any) -> None:
        self.received = signal.Signals(number).name


class RandomStateHook(Hook):
    """Puts the random numbers back to where the run that is resumed left them, on each rank its own."""

    def __init__(self, states: Sequence[Mapping[str, Any]] | None) -> None:
        self.states = states

    def before_train(self, trainer: Trainer) -> None:
        if not self.states:
            return
        if len(self.states) != comm.get_world_size():
            logger.warning(
                "The checkpoint is from a run with %d processes, this one has %d: random numbers start afresh",
                len(self.states), comm.get_world_size(),
            )  # fmt: skip
            return
        restore_random_state(self.states[comm.get_rank()], trainer.device)


class CheckpointHook(Hook):
    """Saves every `period` steps, when the loop is asked to stop, and at the end as "model_final".

    Nothing is saved when a loss or a weight is not finite: the last checkpoint stays the last good one.

    Args:
        checkpointer: a Checkpointer; its `save` writes on the main rank.
        period: steps between checkpoints; 0 for the end alone.
        guard: looked at before each save.
        state: what else goes into a checkpoint, besides model, optimizer, scheduler, iteration and random numbers.
    """

    def __init__(
        self,
        checkpointer: Any,
        period: int,
        guard: LossGuard,
        state: Callable[[Trainer], Mapping[str, Any]] = lambda trainer: {},
    ) -> None:
        self.checkpointer = checkpointer
        self.period = period
        self.guard = guard
        self.state = state

    def after_step(self, trainer: Trainer) -> None:
        if trainer.iteration == trainer.max_iter:
            self.save(trainer, "model_final")
        elif trainer.stop_reason or (self.period > 0 and trainer.iteration % self.period == 0):
            self.save(trainer, f"model_{trainer.iteration:07d}")

    def save(self, trainer: Trainer, name: str) -> None:
        """All ranks together."""
        with trainer.pause():
            self.guard.check()
            check_finite_weights(trainer.bare_model, trainer.iteration, self.guard.advice)
            states = comm.all_gather(random_state(trainer.device))
            self.checkpointer.save(name, iteration=trainer.iteration, random_states=states, **self.state(trainer))


class EvaluationHook(Hook):
    """Calls `evaluate(trainer)` every `period` steps, and at the last step when the period divides it."""

    def __init__(self, period: int, evaluate: Callable[[Trainer], None]) -> None:
        self.period = period
        self.evaluate = evaluate

    def after_step(self, trainer: Trainer) -> None:
        if trainer.iteration % self.period == 0 and not trainer.stop_reason:
            with trainer.pause():
                self.evaluate(trainer)


def check_finite_weights(model: nn.Module, iteration: int, advice: str = "") -> None:
    """Raises NonFiniteLossError that names the first parameters with nan or inf."""
    tensors = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    if not tensors:
        return
    finite = torch.stack([tensor.isfinite().all() for tensor in tensors.values()]).tolist()
    bad = [name for name, ok in zip(tensors, finite, strict=True) if not ok]
    if bad:
        raise NonFiniteLossError(
            f"{len(bad)} weights are not finite after iteration {iteration} ({', '.join(bad[:3])}"
            f"{', ...' if len(bad) > 3 else ''}): no checkpoint is written.\n  {advice}"
        )


def peak_memory(device: torch.device) -> float:
    """Largest memory in MiB: what PyTorch held on the GPU, or the resident size of the process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
