"""Train a detector in one plain loop, written to be read first.

Usage: `python tools/plain_train_net.py --config-file FILE [KEY VALUE ...]`; for several processes:
`torchrun --nproc_per_node=N tools/plain_train_net.py ...`.

The losses equal those of train_net.py with the same config and seed. What train_net.py adds: resuming, evaluation,
checkpoints during training, float16, accumulated batches, a mean of the weights, metrics.jsonl and TensorBoard, a guard
against nan, and hooks of your own.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import torch

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.data import make_data_loader
from maskrcnn_benchmark.engine.checkpointer import DetectronCheckpointer
from maskrcnn_benchmark.engine.run import (
    StartupError,
    argument_parser,
    choose_seed,
    distribute,
    friendly_errors,
    join_process_group,
    leave_process_group,
    seed_everything,
    startup_errors,
)
from maskrcnn_benchmark.engine.train_loop import PRECISIONS, autocast
from maskrcnn_benchmark.modeling.detector import build_detection_model
from maskrcnn_benchmark.solver import make_gradient_clipper, make_lr_scheduler, make_optimizer
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.logger import setup_logger
from maskrcnn_benchmark.utils.miscellaneous import ensure_writable

logger = logging.getLogger("maskrcnn_benchmark")


@friendly_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 after an error."""
    args = argument_parser(__doc__.splitlines()[0]).parse_args(argv)
    cfg = load_config(args.config_file, args.opts)
    if cfg.DTYPE == "float16" or cfg.SOLVER.ACCUMULATE > 1 or cfg.SOLVER.EMA_DECAY > 0 or cfg.SOLVER.HOOKS:
        raise StartupError(
            "DTYPE float16, SOLVER.ACCUMULATE, SOLVER.EMA_DECAY and SOLVER.HOOKS need tools/train_net.py; set them to "
            "float32 or bfloat16, 1, 0 and ()."
        )
    process = join_process_group(cfg.MODEL.DEVICE, args.local_rank)
    ensure_writable(cfg.OUTPUT_DIR)
    setup_logger("maskrcnn_benchmark", cfg.OUTPUT_DIR, process.rank)
    cfg.SEED = choose_seed(cfg.SEED)
    cfg.freeze()
    seed_everything(cfg.SEED, process.rank)

    with startup_errors():
        model = build_detection_model(cfg).to(process.device)
        optimizer = make_optimizer(cfg, model)
        scheduler = make_lr_scheduler(cfg, optimizer)
        clip_gradients = make_gradient_clipper(cfg)
        data_loader = make_data_loader(cfg, is_train=True, is_distributed=process.distributed)
    checkpointer = DetectronCheckpointer(cfg, model, optimizer, scheduler, cfg.OUTPUT_DIR, comm.is_main_process())
    checkpointer.load(cfg.MODEL.WEIGHT, resume=False)
    parallel_model = distribute(model, process).train()

    iteration = 0
    for iteration, (images, targets, _) in enumerate(data_loader, start=1):
        images = images.to(process.device, non_blocking=True)
        targets = [target.to(process.device, non_blocking=True) for target in targets]
        with autocast(process.device, PRECISIONS[cfg.DTYPE]):
            losses = parallel_model(images, targets)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        if clip_gradients is not None:
            clip_gradients([parameter for parameter in model.parameters() if parameter.requires_grad])
        optimizer.step()
        scheduler.step()
        if iteration % cfg.SOLVER.LOG_PERIOD == 0:
            means = comm.reduce_dict({name: loss.detach() for name, loss in losses.items()})
            text = "  ".join(f"{name}: {loss.item():.4f}" for name, loss in means.items())
            logger.info("iter: %d  %s  lr: %.6f", iteration, text, optimizer.param_groups[0]["lr"])

    checkpointer.save("model_final", iteration=iteration)
    leave_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
