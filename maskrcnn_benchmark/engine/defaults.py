"""What the command-line tools share: flags, the start of a run, and how errors are shown."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from maskrcnn_benchmark.config import ConfigError
from maskrcnn_benchmark.layers import extension_status
from maskrcnn_benchmark.utils.checkpoint import CheckpointError
from maskrcnn_benchmark.utils.collect_env import collect_env_info
from maskrcnn_benchmark.utils.logger import setup_logger
from maskrcnn_benchmark.utils.miscellaneous import ensure_writable, save_config

from .hooks import NonFiniteLossError
from .launch import LaunchError, Process
from .resume import CONFIG_FILE, ResumeError
from .startup import StartupError

logger = logging.getLogger("maskrcnn_benchmark")

EXIT_STOPPED = 143  # 128 + SIGTERM: what a shell reports of a program that the signal ended


class _Parser(argparse.ArgumentParser):
    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        parsed = super().parse_args(*args, **kwargs)
        misplaced = [value for value in parsed.opts if value.startswith("--")]
        if misplaced:
            self.error(f"{', '.join(misplaced)}: flags go before the first KEY VALUE pair")
        return parsed


def argument_parser(description: str) -> argparse.ArgumentParser:
    """maskrcnn-benchmark's flags, and the launcher's in both spellings; flags come before overrides, as there."""
    parser = _Parser(description=description)
    parser.add_argument("--config-file", default="", metavar="FILE", help="path to a YAML config; none: the defaults")
    parser.add_argument(
        "--local_rank",
        "--local-rank",
        type=int,
        default=None,
        metavar="N",
        help="set by launchers of older PyTorch versions; not needed under torchrun",
    )
    parser.add_argument(
        "opts",
        nargs=argparse.REMAINDER,
        metavar="KEY VALUE",
        help="config keys and their values, which win over the file",
    )
    return parser


def begin(cfg: Any, process: Process, config_file: str) -> None:
    """Check the output folder, open log.txt and write what this run is made of. Raises: OSError."""
    if cfg.OUTPUT_DIR:
        ensure_writable(cfg.OUTPUT_DIR)
    setup_logger("maskrcnn_benchmark", cfg.OUTPUT_DIR, process.rank)
    logger.info("Using %d processes, device %s", process.world_size, process.device)
    logger.info("Environment:\n%s", collect_env_info())
    logger.info("ROIAlign and NMS: %s", extension_status())
    if config_file:
        logger.info("Config file: %s", config_file)


def record_config(cfg: Any) -> None:
    """Log the whole config and save it as config.yml."""
    logger.info("Running with config:\n%s", cfg)
    if cfg.OUTPUT_DIR:
        path = os.path.join(cfg.OUTPUT_DIR, CONFIG_FILE)
        save_config(cfg, path)
        logger.info("Config saved to %s", path)


def distribute(model: nn.Module, process: Process) -> nn.Module:
    """Wrap the model for training in several processes."""
    if not process.distributed:
        return model
    # Frozen statistics are the same everywhere and SyncBN keeps its own together; those of plain batch norm follow
    # rank 0.
    drifting = any(
        isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, nn.SyncBatchNorm)
        for module in model.modules()
    )
    return DistributedDataParallel(
        model,
        device_ids=[process.device] if process.device.type == "cuda" else None,
        broadcast_buffers=drifting,
        find_unused_parameters=False,
        gradient_as_bucket_view=True,
    )


@contextlib.contextmanager
def errors_explained() -> Iterator[list[int]]:
    """What a user can cause ends with its message alone, without a traceback; the list then holds the exit status."""
    status: list[int] = []
    try:
        yield status
    except (CheckpointError, ConfigError, OSError, LaunchError, ResumeError, StartupError, NonFiniteLossError) as error:
        if not logger.handlers:
            setup_logger("maskrcnn_benchmark")
        text = str(error)
        if "in DataLoader worker" in text:  # PyTorch puts the worker's traceback before what it says
            text = text.rstrip().splitlines()[-1]
        logger.error("%s", text)
        status.append(1)
