"""`Trainer`, the training loop, and `Hook`, what is called around its steps."""

from __future__ import annotations

import contextlib
import logging
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LRScheduler

from maskrcnn_benchmark.structures.bounding_box import BoxList
from maskrcnn_benchmark.structures.image_list import ImageList

logger = logging.getLogger(__name__)

Batch = tuple[ImageList, Sequence[BoxList], Sequence[int]]  # images, targets, dataset indices
PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Hook:
    """Base of all hooks; override the methods you need. All ranks call all hooks in the same order."""

    def before_train(self, trainer: Trainer) -> None:
        """Called once, after the loader has started and before the first step."""

    def after_step(self, trainer: Trainer) -> None:
        """Called after each step; `trainer.iteration` already counts it."""

    def after_train(self, trainer: Trainer) -> None:
        """Called once, after the last step, unless an error ended the loop."""

    def on_error(self, trainer: Trainer, error: Exception) -> None:
        """Called when a step or a hook has raised; may raise an error that explains it better."""

    def close(self, trainer: Trainer) -> None:
        """Called once at the end, also after an error."""


class Trainer:
    """Trains a model on the batches of a loader and calls hooks around each step. Reads no cfg and writes no files.

    An iteration is one optimizer step. The loop never synchronises with the GPU: losses stay tensors.

    Args:
        model: in training mode returns a dict of losses; may be wrapped in DistributedDataParallel.
        data_loader: yields (ImageList, BoxLists, dataset indices), `accumulate` batches per iteration; starts with
            the batches of iteration `start_iter`.
        optimizer: updates the parameters of the model.
        scheduler: stepped after each optimizer step.
        device: the device of the model.
        max_iter: iterations of the whole run.
        start_iter: iterations that the resumed run has already done.
        precision: "float32", or "float16" / "bfloat16" for mixed precision; float16 scales the loss.
        accumulate: batches per step; their gradients are averaged, as for one larger batch.
        clip_gradients: called with the parameters before each step; may return their gradient norm.
        hooks: called in this order.
    Attributes:
        iteration: iterations done.
        losses: losses of the last step, detached, averaged over its batches.
        images: dataset indices of the images of the last step.
        gradient_norm: what `clip_gradients` returned in the last step.
        data_time: seconds that the last step waited for data.
        stop_reason: a hook sets it to end the loop after the current step.
        pause_seconds: seconds spent in `pause()`.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Batch],
        optimizer: torch.optim.Optimizer,
        scheduler: LRScheduler,
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

        Raises: RuntimeError if the loader ends too early; any error of a step or a hook, after `on_error` of all hooks.
        """
        self.model.train()
        batches = iter(self.data_loader)  # draws random numbers; a hook may restore the random state afterwards
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
        """For hooks: the time spent inside, such as in an evaluation, does not count as training time."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.pause_seconds += time.perf_counter() - start

    def run_step(self, batches: Iterator[Batch]) -> None:
        """Average the gradients of `accumulate` batches and update the weights once."""
        self.optimizer.zero_grad(set_to_none=True)
        self.losses, self.images, self.data_time = {}, (), 0.0
        for position in range(self.accumulate):
            images, targets, indices = self._next_batch(batches)
            self.images += tuple(indices)
            images = images.to(self.device, non_blocking=True)
            targets = [target.to(self.device, non_blocking=True) for target in targets]
            with self._keep_gradients_local(position + 1 < self.accumulate):
                self._backward(images, targets)
        self._update()
        self.iteration += 1

    def _next_batch(self, batches: Iterator[Batch]) -> Batch:
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
        """Add the gradients of a batch to the parameters, and its losses to `self.losses`."""
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
            if self.scaler.is_enabled():  # the schedule also counts a step that the scaler skips
                warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self.scheduler.step()

    def _keep_gradients_local(self, local: bool) -> contextlib.AbstractContextManager[None]:
        """Skip the exchange of gradients between ranks, except for the last batch of a step."""
        if local and isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _call_hooks(self, event: str) -> None:
        for hook in self.hooks:
            getattr(hook, event)(self)


def bare_model(model: nn.Module) -> nn.Module:
    """Return the model inside a DistributedDataParallel, or the model itself."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """Return a context for mixed precision in `dtype`; it does nothing for float32."""
    return contextlib.nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype)
