"""The hooks of a training: log, checkpoints, evaluation, a guard against nan, a mean of the weights."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.solver import ModelEMA
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.allocator import peak_memory
from maskrcnn_benchmark.utils.metric_logger import MetricLogger
from maskrcnn_benchmark.utils.problems import collect_config_problems, config_problem
from maskrcnn_benchmark.utils.random_state import random_state, restore_random_state
from maskrcnn_benchmark.utils.registry import Registry

from .train_loop import Hook, Trainer
from .writers import Progress, Writer

if TYPE_CHECKING:
    from yacs.config import CfgNode

__all__ = [
    "HOOKS",
    "CheckpointHook",
    "EMAHook",
    "EvaluationHook",
    "Hook",
    "LogHook",
    "LossGuard",
    "NonFiniteLossError",
    "RandomStateHook",
    "StopHook",
    "build_hooks",
    "check_finite_weights",
    "find_hook_problems",
]

HOOKS = Registry()  # names for SOLVER.HOOKS: functions or classes (cfg) -> Hook

logger = logging.getLogger(__name__)


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
    """Ends the run with a message that names the images when a loss is nan or inf.

    Reading the losses synchronises with the GPU, so the losses of `period` steps are checked together; the message
    names the first bad step. They are also checked before each checkpoint.

    Args:
        period: steps between checks.
        describe_image: returns the name of an image, for the message, by its index in the training set.
        advice: the end of the message: what to do.
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
        """Check all losses since the last check, on all ranks. Raises: NonFiniteLossError, on all ranks."""
        bad = self._first_bad()
        reports = [report for report in comm.all_gather(self._report(bad)) if report]
        if reports:
            first = min(iteration for iteration, _ in reports)
            self._fail(first, [text for iteration, text in reports if iteration == first])
        if self._unchecked:
            self._last_good = self._unchecked[-1]
        self._unchecked.clear()

    def on_error(self, trainer: Trainer, error: Exception) -> None:
        """Report a nan of an earlier step instead of `error`, which often follows from it."""
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
    """Passes losses and times to the writers every `period` steps. Only then it synchronises with the GPU.

    Losses are averaged over the ranks. The writers exist on the main rank only.
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
        # Reading the losses has synchronised with the GPU, so the clock shows how long the steps took.
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
    """Ends the loop on SIGTERM, which a scheduler sends before it takes the machine; a later CheckpointHook saves.

    The ranks receive the signal at different times and must stop at the same step, so they exchange what they have
    received every few steps.
    """

    STEPS_BETWEEN_EXCHANGES = 5

    def __init__(self, signals: Sequence[signal.Signals] = (signal.SIGTERM,)) -> None:
        self.signals = signals
        self.received: str | None = None
        self._previous: dict[signal.Signals, Callable[[int, FrameType | None], Any] | int | None] = {}

    def before_train(self, trainer: Trainer) -> None:
        if threading.current_thread() is threading.main_thread():  # only the main thread may set handlers
            self._previous = {number: signal.signal(number, self._note) for number in self.signals}

    def after_step(self, trainer: Trainer) -> None:
        received = self.received
        if comm.get_world_size() > 1:
            if trainer.iteration % self.STEPS_BETWEEN_EXCHANGES:
                return
            received = next((name for name in comm.all_gather(self.received) if name), None)
        if received:
            trainer.stop_reason = received

    def close(self, trainer: Trainer) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name


class RandomStateHook(Hook):
    """Restores the random state of each rank from the checkpoint of the resumed run."""

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


class Saver(Protocol):
    """What writes a checkpoint with a name; a Checkpointer is one."""

    def save(self, name: str, **extra: Any) -> object: ...


class CheckpointHook(Hook):
    """Saves every `period` steps, when the loop is about to stop early, and at the end as "model_final".

    Nothing is saved if a loss or a weight is not finite, so the last checkpoint is always good.

    Args:
        checkpointer: a Checkpointer; its `save` writes on the main rank.
        period: steps between checkpoints; 0 to save only at the end.
        guard: checked before each save.
        state: returns what to save besides model, optimizer, scheduler, iteration and random state.
    """

    def __init__(
        self,
        checkpointer: Saver,
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
        """Save a checkpoint. Collective."""
        with trainer.pause():
            self.guard.check()
            check_finite_weights(trainer.bare_model, trainer.iteration, self.guard.advice)
            states = comm.all_gather(random_state(trainer.device))
            self.checkpointer.save(name, iteration=trainer.iteration, random_states=states, **self.state(trainer))


class EvaluationHook(Hook):
    """Calls `evaluate(trainer)` after every step that `period` divides, the last one included."""

    def __init__(self, period: int, evaluate: Callable[[Trainer], None]) -> None:
        self.period = period
        self.evaluate = evaluate

    def after_step(self, trainer: Trainer) -> None:
        if trainer.iteration % self.period == 0 and not trainer.stop_reason:
            with trainer.pause():
                self.evaluate(trainer)


class EMAHook(Hook):
    """Updates a running mean of the weights after each step."""

    def __init__(self, ema: ModelEMA) -> None:
        self.ema = ema

    def after_step(self, trainer: Trainer) -> None:
        self.ema.update(trainer.bare_model)


def build_hooks(cfg: CfgNode) -> list[Hook]:
    """Build the hooks that SOLVER.HOOKS names. Raises: ConfigError for an unknown name."""
    _check_names(cfg)
    return [HOOKS[name](cfg) for name in cfg.SOLVER.HOOKS]


def find_hook_problems(cfg: CfgNode) -> list[str]:
    """Return a line for each unknown name in SOLVER.HOOKS."""
    with collect_config_problems() as problems:
        _check_names(cfg)
    return problems


def _check_names(cfg: CfgNode) -> None:
    for name in cfg.SOLVER.HOOKS:
        if name not in HOOKS:
            config_problem(
                f"SOLVER.HOOKS has {name!r}; registered: {', '.join(HOOKS) or 'none'}. "
                "A module that IMPORTS lists registers a hook in engine.hooks.HOOKS."
            )


def check_finite_weights(model: nn.Module, iteration: int, advice: str = "") -> None:
    """Raises: NonFiniteLossError that names the first parameters with nan or inf."""
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
