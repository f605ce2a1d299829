"""Load the weights of a trained model."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from torch import nn

from maskrcnn_benchmark.engine.checkpointer import DetectronCheckpointer

from .errors import StartupError

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)


def load_trained_weights(
    cfg: CfgNode,
    model: nn.Module,
    path: str | os.PathLike[str] | None = None,
    *,
    flag: str = "--ckpt",
    purpose: str = "test",
) -> dict[str, Any]:
    """Load the weights of `path`, else of the last checkpoint in OUTPUT_DIR, else of MODEL.WEIGHT. Logs which.

    Args:
        path: a file, a URL or a catalog:// name.
        flag: the command-line flag of the path, for messages.
        purpose: a verb that says what the weights are for, for messages.
    Returns: what the checkpoint holds besides weights, such as "categories": {label: name}.
    Raises: StartupError if there is none of the three; CheckpointError, FileNotFoundError.
    """
    checkpointer = DetectronCheckpointer(cfg, model, save_dir=cfg.OUTPUT_DIR, save_to_disk=False)
    sources = {
        flag: os.fspath(path) if path else None,
        "the last checkpoint in OUTPUT_DIR": checkpointer.get_checkpoint_file(),
        "MODEL.WEIGHT": cfg.MODEL.WEIGHT,
    }
    source = next((name for name, found in sources.items() if found), None)
    if source is None:
        raise StartupError(
            f"there are no weights to {purpose}: {cfg.OUTPUT_DIR or 'OUTPUT_DIR'} holds no checkpoint, "
            f"MODEL.WEIGHT is empty, and {flag} was not given."
        )
    logger.info("The weights to %s are those of %s: %s", purpose, source, sources[source])
    return checkpointer.load(sources[source])
