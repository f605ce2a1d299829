"""The checkpointer of this project's models: knows where weights come from and how other projects name them."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from maskrcnn_benchmark.modeling.state_dict_names import NAME_RULES, load_state_dict, refusal, tensors_of
from maskrcnn_benchmark.utils.c2_model_loading import read_named_arrays
from maskrcnn_benchmark.utils.checkpoint import Checkpointer, CheckpointError, Stateful, check_exists
from maskrcnn_benchmark.utils.imports import import_catalog
from maskrcnn_benchmark.utils.model_serialization import LoadReport
from maskrcnn_benchmark.utils.model_zoo import cache_url

if TYPE_CHECKING:
    from yacs.config import CfgNode

_CATALOG = "catalog://"


class DetectronCheckpointer(Checkpointer):
    """A `Checkpointer` that also reads `catalog://` names, http(s) URLs and Detectron's `.pkl` files.

    Args:
        cfg: for PATHS_CATALOG and SOLVER.KEEP_LAST; the rest as for `Checkpointer`.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Stateful | None = None,
        save_dir: str | os.PathLike[str] = "",
        save_to_disk: bool | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        keep_last = cfg.SOLVER.KEEP_LAST
        super().__init__(
            model, optimizer, scheduler, save_dir, save_to_disk, logger, keep_last=keep_last, names=NAME_RULES
        )
        self.cfg = cfg

    def read(self, path: str) -> dict[str, Any]:
        if path.startswith(_CATALOG):
            url = import_catalog(self.cfg.PATHS_CATALOG).ModelCatalog.get(path[len(_CATALOG) :])
            self.logger.info("%s is %s", path, url)
            path = url
        if path.startswith(("http://", "https://")):
            path = cache_url(path)
        if path.endswith(".pkl"):
            check_exists(path)
            return {"model": tensors_of(read_named_arrays(path))}
        return super().read(path)

    def _load_weights(self, state: Mapping[str, Tensor], path: str) -> LoadReport:
        node = self.cfg.MODEL
        order = node.WEIGHT_FORMAT if path == node.WEIGHT else ""  # not of checkpoints of this run
        report = load_state_dict(self.model, state, self.cfg, pixel_order=order)
        reason = refusal(self.model, report, self.cfg.MODEL.WEIGHT_LEAST_SHARE)
        if reason is not None and report.loaded:  # without any, the caller says so
            raise CheckpointError(f"{path} is refused: {reason}")
        return report
