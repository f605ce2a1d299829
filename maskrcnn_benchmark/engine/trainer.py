"""`do_train`: builds a `Trainer` with its hooks from a config, and trains."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from maskrcnn_benchmark.data.datasets.base import as_detection_dataset
from maskrcnn_benchmark.data.evaluation import EvaluationResults
from maskrcnn_benchmark.solver import ModelEMA, make_ema, make_gradient_clipper
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.random_state import preserve_random_state
from maskrcnn_benchmark.utils.timer import get_time_str

from .hooks import (
    CheckpointHook,
    EMAHook,
    EvaluationHook,
    LogHook,
    LossGuard,
    RandomStateHook,
    Saver,
    StopHook,
    build_hooks,
)
from .inference import run_tests
from .keypoints import KEYPOINT_SPEC, tell_keypoints
from .train_loop import Hook, Trainer, bare_model
from .writers import ConsoleWriter, Writer, build_writers

if TYPE_CHECKING:
    from yacs.config import CfgNode

__all__ = ["Evaluation", "Hook", "Trainer", "do_train"]

logger = logging.getLogger(__name__)


def do_train(
    cfg: CfgNode,
    model: nn.Module,
    data_loader: DataLoader[Any],
    data_loader_val: Sequence[DataLoader[Any]] | None,
    optimizer: torch.optim.Optimizer,
    scheduler: LRScheduler,
    checkpointer: Saver,
    device: torch.device | str,
    checkpoint_period: int,
    test_period: int,
    arguments: MutableMapping[str, Any],
    hooks: Sequence[Hook] = (),
) -> Trainer:
    """Train from iteration `arguments["iteration"]` to SOLVER.MAX_ITER.

    The hooks are called in this order: random state, mean of the weights, guard against nan, log, hooks of the user
    (those of SOLVER.HOOKS, then `hooks`), stop on SIGTERM, checkpoints, evaluation. So a hook of the user that sets
    `trainer.stop_reason` gets its checkpoint, and an evaluation that fails comes after the checkpoint.

    Args:
        model: on `device`, wrapped in DistributedDataParallel if there are several processes.
        data_loader: starts at that iteration, see `make_data_loader(..., start_iter)`.
        data_loader_val: one loader per name in DATASETS.TEST; used if `test_period` is above 0.
        checkpoint_period: iterations between checkpoints; 0 for the final one only.
        test_period: iterations between evaluations; 0 for none.
        arguments: "iteration", and in a resumed run the other entries of the checkpoint. Updated with the progress,
            with "best" and with "evaluated_at", the iteration of the latest evaluation.
        hooks: the user's own.
    Returns: the trainer after its last step. Its `stop_reason` is set if the run ended early. The model then has its
        final weights: the mean ones if SOLVER.EMA_DECAY is on.
    Raises: NonFiniteLossError if a loss becomes nan or inf; StartupError if a resumed model and the data are of
        different keypoints.
    """
    device = torch.device(device)
    start_iter = int(arguments["iteration"])
    inner = bare_model(model)
    ema = restore_ema(cfg, inner, arguments)
    dataset = as_detection_dataset(data_loader.dataset)
    guard = LossGuard(cfg.SOLVER.LOG_PERIOD, image_describer(dataset), _advice(cfg))
    writers = _writers(cfg.OUTPUT_DIR, start_iter)
    facts: dict[str, Any] = {"categories": dict(enumerate(dataset.class_names))}
    spec = tell_keypoints(cfg, inner, arguments, {", ".join(cfg.DATASETS.TRAIN) or "the data": dataset.keypoint_spec})
    if spec is not None:
        facts[KEYPOINT_SPEC] = spec.to_plain()

    def state(trainer: Trainer) -> dict[str, Any]:
        scaler = trainer.scaler.state_dict()
        return {"scaler": scaler, "best": arguments.get("best"), "seed": cfg.SEED, **facts}

    save = AveragedCheckpoints(checkpointer, ema, inner)
    checkpoints = CheckpointHook(save, checkpoint_period, guard, state)
    all_hooks: list[Hook] = [
        RandomStateHook(arguments.get("random_states")),
        *([EMAHook(ema)] if ema is not None else []),
        guard,
        LogHook(cfg.SOLVER.LOG_PERIOD, writers),
        *build_hooks(cfg),
        *hooks,
        StopHook(),
        checkpoints,
    ]
    if test_period > 0 and data_loader_val:
        evaluation = Evaluation(cfg, data_loader_val, ema, writers, checkpoints, arguments)
        all_hooks.append(EvaluationHook(test_period, evaluation))

    trainer = Trainer(
        model,
        data_loader,
        optimizer,
        scheduler,
        device=device,
        max_iter=cfg.SOLVER.MAX_ITER,
        start_iter=start_iter,
        precision=cfg.DTYPE,
        accumulate=cfg.SOLVER.ACCUMULATE,
        clip_gradients=make_gradient_clipper(cfg),
        hooks=all_hooks,
    )
    for group, rate in zip(optimizer.param_groups, scheduler.get_last_lr(), strict=True):
        group["lr"] = rate  # in a resumed run, PyTorch's schedules set it only at their next step
    if arguments.get("scaler"):
        trainer.scaler.load_state_dict(arguments["scaler"])
    logger.info("Start training at iteration %d of %d", start_iter, trainer.max_iter)
    start = time.perf_counter()
    trainer.train()
    arguments["iteration"] = trainer.iteration
    seconds, done = time.perf_counter() - start, max(1, trainer.iteration - start_iter)
    logger.info("Total training time: %s (%.4f s / it)", get_time_str(seconds), seconds / done)
    if ema is not None and not trainer.stop_reason:
        inner.load_state_dict(ema.weights)  # as saved in model_final
    if trainer.stop_reason:
        logger.warning(
            "Stopped by %s after iteration %d; a checkpoint was saved. The same command continues from it.",
            trainer.stop_reason, trainer.iteration,
        )  # fmt: skip
    return trainer


class AveragedCheckpoints:
    """A checkpointer that saves the mean weights, if there is a mean, as "model".

    Every reader of "model" (test_net.py, the demo, other code) then has the weights that were evaluated. The training's
    own weights are saved as "training_weights", for a resumed run.
    """

    def __init__(self, checkpointer: Saver, ema: ModelEMA | None, model: nn.Module) -> None:
        self.checkpointer = checkpointer
        self.ema = ema
        self.model = model

    def save(self, name: str, **extra: Any) -> None:
        if self.ema is None:
            self.checkpointer.save(name, **extra)
            return
        own = {key: value.detach().clone() for key, value in self.model.state_dict().items()}
        with self.ema.applied(self.model):
            self.checkpointer.save(name, training_weights=own, ema_updates=self.ema.updates, **extra)


def restore_ema(cfg: CfgNode, model: nn.Module, arguments: MutableMapping[str, Any]) -> ModelEMA | None:
    """Return the running mean that SOLVER.EMA_DECAY asks for, or None.

    If the model was loaded from a checkpoint with mean weights, the mean continues from these, and the model gets the
    training's own weights back.
    """
    own = arguments.pop("training_weights", None)
    ema = make_ema(cfg, model)
    if ema is not None:
        ema.updates = int(arguments.get("ema_updates", 0))
    if own is not None:
        model.load_state_dict(own)
    return ema


@dataclass(frozen=True)
class Evaluation:
    """Evaluates on DATASETS.TEST during a training and saves the best weights as "model_best".

    The best have the largest mean AP over tasks and datasets; predictions before refinement do not count.
    """

    cfg: CfgNode
    data_loaders: Sequence[DataLoader[Any]]
    ema: ModelEMA | None
    writers: Sequence[Writer]
    checkpoints: CheckpointHook
    arguments: MutableMapping[str, Any]

    def __call__(self, trainer: Trainer) -> None:
        model = trainer.bare_model
        mean_weights = self.ema.applied(model) if self.ema is not None else contextlib.nullcontext()
        with preserve_random_state(trainer.device), mean_weights:
            results = run_tests(self.cfg, model, self.data_loaders, trainer.device)
        for writer in self.writers:
            writer.write_evaluation(trainer.iteration, evaluation_scalars(results))
        self.arguments["evaluated_at"] = trainer.iteration
        score = comm.broadcast(sum(found.summary_score() for found in results.values()) / max(1, len(results)))
        best = self.arguments.get("best")
        if best is None or score > best["score"]:
            self.arguments["best"] = {"score": score, "iteration": trainer.iteration}
            self.checkpoints.save(trainer, "model_best")
            logger.info("Best so far at iteration %d (mean AP %.4f): saved as model_best", trainer.iteration, score)


def evaluation_scalars(results: Mapping[str, EvaluationResults]) -> dict[str, float]:
    """Return {"dataset/task/metric": value} for the writers, without metrics that could not be measured."""
    scalars = {
        f"{dataset}/{task}/{metric}": value
        for dataset, found in results.items()
        for task, metrics in found.metrics.items()
        for metric, value in metrics.items()
    }
    scalars |= {
        f"{dataset}/{task}/{metric}/{keypoint}": value
        for dataset, found in results.items()
        for task, rows in found.per_keypoint.items()
        for keypoint, metrics in rows.items()
        for metric, value in metrics.items()
    }
    return {name: value for name, value in scalars.items() if value >= 0}


def image_describer(dataset: Any) -> Callable[[int], str]:
    """Return a function that maps an index to image id and file name, if the dataset knows them."""

    def describe(index: int) -> str:
        info = dataset.get_img_info(index)
        return f"{info.get('id', index)} ({info.get('file_name', 'no file name')})"

    return describe


def _writers(folder: str, start_iter: int) -> list[Writer]:
    if not comm.is_main_process():
        return []
    return build_writers(folder, start_iter, logger) if folder else [ConsoleWriter(logger)]


def _advice(cfg: CfgNode) -> str:
    clipping = cfg.SOLVER.CLIP_GRADIENTS.ENABLED
    remedies = [
        "look at the annotations of these images",
        f"lower SOLVER.BASE_LR ({cfg.SOLVER.BASE_LR:g} for batches of {cfg.SOLVER.IMS_PER_BATCH} images)",
        f"lengthen the warm-up, SOLVER.WARMUP_ITERS ({cfg.SOLVER.WARMUP_ITERS})",
        f"lower SOLVER.CLIP_GRADIENTS.VALUE ({cfg.SOLVER.CLIP_GRADIENTS.VALUE:g})"
        if clipping
        else "set SOLVER.CLIP_GRADIENTS.ENABLED True",
    ]
    if cfg.DTYPE == "float16":
        remedies.append("set DTYPE bfloat16, which has the range of float32")
    return f"What to do: {'; '.join(remedies)}. The last checkpoint is good; the same command continues from it."
