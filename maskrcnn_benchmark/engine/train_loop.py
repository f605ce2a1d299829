"""The training loop: forward, backward, update, and hooks around them."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList

if TYPE_CHECKING:
    from .hooks import Hook

logger = logging.getLogger(__name__)

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Trainer:
    """Runs a model through a loader's batches and calls hooks around each step; knows nothing of cfg, files or logs.

    An iteration is one optimiser step. Nothing here waits for the GPU: losses stay tensors.

    Args:
        model: in training mode returns a dict of losses; may be wrapped in DistributedDataParallel.
        data_loader: yields (ImageList, BoxLists, dataset indices), from the batches of iteration `start_iter` on;
            `accumulate` of them for each iteration.
        optimizer, scheduler: the scheduler is stepped after each optimiser step.
        device: where the model is.
        max_iter: iterations of the whole run.
        start_iter: iterations that were done before, by the run that is resumed.
        precision: "float32", or "float16" / "bfloat16" for mixed precision; float16 scales the loss.
        accumulate: batches whose mean gradient makes one step, as that of one batch so many times as large.
        clip_gradients: called with the parameters before each step, may return their norm.
        hooks: called in order.
    Attributes:
        iteration: iterations done. losses: of the last step, detached, means over its batches. images: dataset indices
        that it saw. gradient_norm: what `clip_gradients` returned. data_time: seconds that it waited for data.
        stop_reason: set by a hook to end the loop after the current step. pause_seconds: spent in `pause()`.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Any],
        optimizer: torch.optim.Optimizer,
        scheduler: Any,
        *,
        device: torch.device | str,
        max_iter: int,
        start_iter: int = 0,
        precision: str = "float32",
        accumulate: int = 1,
        clip_gradients: Callable[[Sequence[nn.Parameter]], Tensor | None] | None = None,
        hooks: Iterable[Hook] = (),
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"DTYPE is {precision!r}; it can be {', '.join(PRECISIONS)}")
        self.model = model
        self.data_loader = data_loader
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.device = torch.device(device)
        self.max_iter = max_iter
        self.start_iter = start_iter
        self.dtype = PRECISIONS[precision]
        self.accumulate = accumulate
        self.clip_gradients = clip_gradients
        self.hooks = list(hooks)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype is torch.float16)
        self.trained_parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

        self.iteration = start_iter
        self.losses: dict[str, Tensor] = {}
        self.images: tuple[int, ...] = ()
        self.gradient_norm: Tensor | None = None
        self.data_time = 0.0
        self.stop_reason: str | None = None
        self.pause_seconds = 0.0

    @property
    def bare_model(self) -> nn.Module:
        """The model without the wrapper of distributed training."""
        return bare_model(self.model)

    def train(self) -> None:
        """Run from `start_iter` to `max_iter`, or until a hook sets `stop_reason`.

        Raises: RuntimeError when the loader ends before; whatever a step or a hook raises, after the hooks saw it.
        """
        self.model.train()
        batches = iter(self.data_loader)  # before the hooks: this draws random numbers, and a hook restores their state
        self._call_hooks("before_train")
        try:
            while self.iteration < self.max_iter and self.stop_reason is None:
                self.run_step(batches)
                self._call_hooks("after_step")
        except Exception as error:
            for hook in self.hooks:
                hook.on_error(self, error)
            raise
        finally:
            self._call_hooks("close")
        self._call_hooks("after_train")

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """For hooks: what is done inside (a checkpoint, an evaluation) does not count as training time."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.pause_seconds += time.perf_counter() - start

    def run_step(self, batches: Iterator[Any]) -> None:
        """Read `accumulate` batches, sum up their gradients, update once."""
        self.optimizer.zero_grad(set_to_none=True)
        self.losses, self.images, self.data_time = {}, (), 0.0
        for position in range(self.accumulate):
            images, targets, indices = self._next_batch(batches)
            self.images += tuple(indices)
            images = images.to(self.device, non_blocking=True)
            targets = [target.to(self.device, non_blocking=True) for target in targets]
            with self._gradients_stay_local(position + 1 < self.accumulate):
                self._backward(images, targets)
        self._update()
        self.iteration += 1

    def _next_batch(self, batches: Iterator[Any]) -> Any:
        start = time.perf_counter()
        try:
            return next(batches)
        except StopIteration:
            raise RuntimeError(
                f"the training loader ended after iteration {self.iteration} of {self.max_iter}; it has to offer "
                f"{self.accumulate} batches per iteration, as make_data_loader(cfg, is_train=True) does."
            ) from None
        finally:
            self.data_time += time.perf_counter() - start

    def _backward(self, images: ImageList, targets: Sequence[BoxList]) -> None:
        """Add a batch's gradients to the parameters, and its losses to `losses`."""
        with autocast(self.device, self.dtype):
            losses = self.model(images, targets)
        self.scaler.scale(sum(losses.values()) / self.accumulate).backward()
        for name, loss in losses.items():
            share = loss.detach().float() / self.accumulate
            self.losses[name] = self.losses[name] + share if name in self.losses else share

    def _update(self) -> None:
        if self.clip_gradients is not None:
            self.scaler.unscale_(self.optimizer)
            self.gradient_norm = self.clip_gradients(self.trained_parameters)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with warnings.catch_warnings():
            if self.scaler.is_enabled():  # a step that the scaler skips still counts for the schedule
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self.scheduler.step()

    def _gradients_stay_local(self, local: bool) -> contextlib.AbstractContextManager[None]:
        """Ranks exchange gradients once a step, with the last batch."""
        if local and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _call_hooks(self, event: str) -> None:
        for hook in self.hooks:
            getattr(hook, event)(self)


def bare_model(model: nn.Module) -> nn.Module:
    """What is inside a DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """Mixed precision in `dtype`; nothing for float32."""
    return contextlib.nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype)
