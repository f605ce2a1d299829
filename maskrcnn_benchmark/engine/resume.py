"""Whether a run continues what its output folder holds, or starts from MODEL.WEIGHT: decided once, and said aloud."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from maskrcnn_benchmark.config import load_config
from maskrcnn_benchmark.utils import comm
from maskrcnn_benchmark.utils.checkpoint import LAST_CHECKPOINT, Checkpointer

logger = logging.getLogger(__name__)

CONFIG_FILE = "config.yml"
_NOT_PART_OF_THE_MODEL = {"MODEL.DEVICE"}


class ResumeError(RuntimeError):
    """The output folder holds another run, and nobody said what to do about it."""


@dataclass(frozen=True)
class ResumePlan:
    """What a run does with its output folder.

    resume: continue from the last checkpoint. seed: that of the run that is continued; None where it is not known.
    """

    resume: bool
    seed: int | None = None


def plan_resume(cfg: Any, flag: bool | None) -> ResumePlan:
    """Look into OUTPUT_DIR and decide. Reads files only, so every rank comes to the same decision.

    Args:
        flag: True for --resume (continue if there is a checkpoint, whatever the config), False for --no-resume
            (start from MODEL.WEIGHT), None for neither: continue if the checkpoint is of this very model, and refuse
            otherwise.
    Raises: ResumeError when there is a checkpoint of a run whose MODEL keys differ and no flag was given, or when the
        checkpoint is gone.
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
            f"{folder} holds a checkpoint of a run with another model:\n  " + "\n  ".join(of_model) + "\n"
            "Give --resume to continue that run all the same, --no-resume to start anew from MODEL.WEIGHT, "
            "or another OUTPUT_DIR to keep it."
        )
    logger.warning(
        "CONTINUING the run in %s from its last checkpoint; MODEL.WEIGHT (%r) is not loaded. "
        "Give --no-resume, or another OUTPUT_DIR, to start anew.",
        folder, cfg.MODEL.WEIGHT,
    )  # fmt: skip
    changed = [text for key, text in differences if key not in ("SEED", "OUTPUT_DIR", "PATHS_CATALOG")]
    if changed:
        logger.warning(
            "The config differs from that of the run it continues; the new values hold:\n  %s", "\n  ".join(changed)
        )
    return ResumePlan(True, saved.SEED if saved is not None and saved.SEED >= 0 else None)


def agreed(plan: ResumePlan) -> ResumePlan:
    """The plan, once all ranks are known to have the same. Collective.

    Raises: ResumeError where they differ, as when machines do not share OUTPUT_DIR.
    """
    plans = comm.all_gather(plan.resume)
    if len(set(plans)) > 1:
        raise ResumeError(
            f"ranks {[rank for rank, resume in enumerate(plans) if resume]} see a checkpoint in OUTPUT_DIR and the "
            "others do not: it must be one folder, which all machines share."
        )
    return plan


def _read_saved_config(folder: Path) -> Any:
    path = folder / CONFIG_FILE
    if not path.is_file():
        logger.warning("%s is missing, so nobody can tell whether the checkpoint beside it is of this config", path)
        return None
    try:
        return load_config(path, lenient=True)
    except Exception as error:  # an edited or half-written file must not stop a run that has a good checkpoint
        logger.warning(
            "%s cannot be read (%s), so nobody can tell whether the checkpoint is of this config", path, error
        )
        return None


def _differences(saved: Any, cfg: Any) -> Iterator[tuple[str, str]]:
    """(key, "KEY: was A, now B") of every key whose values differ."""
    before, now = dict(_leaves(saved)), dict(_leaves(cfg))
    for key in now:
        old = before.get(key)
        if _plain(old) != _plain(now[key]):
            yield key, f"{key}: was {old!r}, now {now[key]!r}"


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: Any) -> Any:
    """Tuples and lists alike: YAML has no tuples."""
    return [_plain(item) for item in value] if isinstance(value, (tuple, list)) else value
