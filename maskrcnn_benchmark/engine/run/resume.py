"""Decide whether a run continues the one in its output folder or starts from MODEL.WEIGHT."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint import LAST_CHECKPOINT, Checkpointer

from .errors import StartupError

if TYPE_CHECKING:
    from yacs.config import CfgNode

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yml"
_NOT_PART_OF_THE_MODEL = {"MODEL.DEVICE"}


class ResumeError(StartupError):
    """The output folder has a checkpoint of a different model, and no flag tells what to do."""


@dataclass(frozen=True)
class ResumePlan:
    """What a run does with its output folder.

    Attributes:
        resume: continue from the last checkpoint.
        seed: seed of the run that is continued; None if it is not known.
    """

    resume: bool
    seed: int | None = None


def plan_resume(cfg: CfgNode, flag: bool | None) -> ResumePlan:
    """Decide by the files in OUTPUT_DIR.

    Args:
        flag: True for --resume (continue if there is a checkpoint, for any config), False for --no-resume
            (start from MODEL.WEIGHT), None for neither (continue if the checkpoint is of the same model).
    Raises: ResumeError if the checkpoint is of a run whose MODEL keys differ and no flag was given, or if the
        checkpoint is missing.
    """
    folder = Path(cfg.OUTPUT_DIR)
    if not cfg.OUTPUT_DIR or not (folder / LAST_CHECKPOINT).is_file():
        if flag:
            logger.info("--resume: %s holds no checkpoint yet, so this run starts at the beginning", folder)
        return ResumePlan(False)
    if flag is False:
        logger.warning(
            "--no-resume: the checkpoints in %s are not used, and files of the same names will be overwritten", folder
        )
        return ResumePlan(False)
    if not Checkpointer(nn.Identity(), save_dir=folder).has_checkpoint():
        raise ResumeError(
            f"{folder / LAST_CHECKPOINT} names a checkpoint that does not exist. Put it back, or give --no-resume to "
            "start anew from MODEL.WEIGHT."
        )
    saved = _read_saved_config(folder)
    differences = list(_differences(saved, cfg)) if saved is not None else []
    of_model = [text for key, text in differences if key.startswith("MODEL.") and key not in _NOT_PART_OF_THE_MODEL]
    if of_model and flag is None:
        raise ResumeError(
            f"{folder} holds a checkpoint of a run with a different model:\n  " + "\n  ".join(of_model) + "\n"
            "Give --resume to continue that run nevertheless, --no-resume to start a new run from MODEL.WEIGHT, "
            "or another OUTPUT_DIR to keep it."
        )
    logger.warning(
        "CONTINUING the run in %s from its last checkpoint; MODEL.WEIGHT (%r) is not loaded. "
        "Give --no-resume, or another OUTPUT_DIR, to start a new run.",
        folder, cfg.MODEL.WEIGHT,
    )  # fmt: skip
    changed = [text for key, text in differences if key not in ("SEED", "OUTPUT_DIR", "PATHS_CATALOG")]
    if changed:
        logger.warning(
            "The config differs from the config of the continued run; the new values are used:\n  %s",
            "\n  ".join(changed),
        )
    return ResumePlan(True, saved.SEED if saved is not None and saved.SEED >= 0 else None)


def broadcast_plan(plan: ResumePlan) -> ResumePlan:
    """Return the main rank's plan on all ranks. Collective.

    Raises: ResumeError if the ranks came to different decisions because their machines do not share OUTPUT_DIR.
    """
    plans = comm.all_gather(plan.resume)
    if len(set(plans)) > 1:
        raise ResumeError(
            f"ranks {[rank for rank, resume in enumerate(plans) if resume]} see a checkpoint in OUTPUT_DIR and the "
            "others do not: it must be one folder, which all machines share."
        )
    return comm.broadcast(plan)


def _read_saved_config(folder: Path) -> CfgNode | None:
    path = folder / CONFIG_FILE
    if not path.is_file():
        logger.warning("%s is missing, so it is unknown whether the checkpoint in its folder has this config", path)
        return None
    try:
        return load_config(path, lenient=True)
    except Exception as error:  # an edited or half-written file must not stop a run that has a good checkpoint
        logger.warning("%s cannot be read (%s), so it is unknown whether the checkpoint is of this config", path, error)
        return None


def _differences(saved: CfgNode, cfg: CfgNode) -> Iterator[tuple[str, str]]:
    """Yield (key, "KEY: was A, now B") for each key whose value differs."""
    before, now = dict(_leaves(saved)), dict(_leaves(cfg))
    for key in now:
        old = before.get(key)
        if _plain(old) != _plain(now[key]):
            yield key, f"{key}: was {old!r}, now {now[key]!r}"


def _leaves(node: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: Any) -> Any:
    """Turn tuples into lists: YAML has no tuples."""
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value
