"""Checkpoints: written completely or not at all, read as data, resumed exactly or loaded for their weights only."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Any, Protocol

import torch
from torch import Tensor, nn

from .comm import is_main_process
from .miscellaneous import mkdir
from .model_serialization import NO_RULES, LoadReport, NameRules, load_weights, strip_prefix_if_present
from .optimizer_state import restore_optimizer
from .safetensors_file import read_safetensors

DESCRIPTIONS = ("categories", "keypoint_spec")  # entries that belong to the weights, not to the run
LAST_CHECKPOINT = "last_checkpoint"  # a file that holds the path of the newest checkpoint
_NUMBERED = re.compile(r"model_(\d+)\.pth")  # checkpoints that KEEP_LAST counts; model_final and others stay
# Keys of the weights in files of this and other projects. Averaged weights are read if there are no others.
_WEIGHT_KEYS = (
    *("model", "state_dict", "model_state", "model_state_dict", "network"),
    *("model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "ema", "averaged"),
)
_PLAIN = (type(None), bool, int, float, str, Tensor, torch.dtype, torch.device)


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read or used. The text says which one and what to do."""


class Stateful(Protocol):
    """An object with a state to save, such as a learning-rate schedule."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


class Checkpointer:
    """Saves and loads a model with everything that training needs.

    Files hold {"model": weights, "optimizer": ..., "scheduler": ...} and what `save` is given, such as "iteration".

    Args:
        model: a DistributedDataParallel or torch.compile wrapper around it is removed.
        optimizer, scheduler: None if only weights are needed.
        save_dir: folder of the checkpoints; "" to load only.
        save_to_disk: does this process write? By default only the main process does.
        logger: where to report.
        keep_last: number of numbered checkpoints to keep, the newest; 0 keeps all.
        names: how names of weights in files may differ from the model's.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Stateful | None = None,
        save_dir: str | os.PathLike[str] = "",
        save_to_disk: bool | None = None,
        logger: logging.Logger | None = None,
        *,
        keep_last: int = 0,
        names: NameRules = NO_RULES,
    ) -> None:
        self.model = _unwrap(model)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.save_dir = os.fspath(save_dir)
        self.save_to_disk = is_main_process() if save_to_disk is None else save_to_disk
        self.logger = logger if logger is not None else logging.getLogger(__name__)
        self.keep_last = keep_last
        self.names = names

    # ---- writing ----

    def save(self, name: str, **extra: Any) -> None:
        """Write `save_dir/name.pth` and make it the last checkpoint.

        Args:
            extra: what else to save ("iteration", "random_states", "categories", ...): numbers, text, tensors, and
                lists, tuples or dictionaries of them.
        Raises: TypeError for anything else, which loading would refuse later; CheckpointError if writing fails.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        content: dict[str, Any] = {"model": self.model.state_dict()}
        if self.optimizer is not None:
            content["optimizer"] = self.optimizer.state_dict()
        if self.scheduler is not None:
            content["scheduler"] = self.scheduler.state_dict()
        content.update(extra)
        for part, value in content.items():
            _check_plain(value, part)

        path = os.path.join(self.save_dir, f"{name}.pth")
        self.logger.info("saving checkpoint to %s", path)
        try:
            mkdir(self.save_dir)
            with replacing_file(path) as file:
                torch.save(content, file)
            with replacing_file(os.path.join(self.save_dir, LAST_CHECKPOINT)) as file:
                file.write(path.encode())
        except (OSError, RuntimeError) as error:  # PyTorch raises a RuntimeError if the disk is full
            raise CheckpointError(
                f"cannot write the checkpoint {path}: {error}. Earlier checkpoints are unchanged. "
                "Is the disk full, or OUTPUT_DIR not writable? SOLVER.KEEP_LAST limits how many checkpoints stay."
            ) from error
        self._prune(path)

    def _prune(self, newest: str) -> None:
        if self.keep_last <= 0:
            return
        numbered = {name: match for name in os.listdir(self.save_dir) if (match := _NUMBERED.fullmatch(name))}
        by_age = sorted(numbered, key=lambda name: int(numbered[name].group(1)))
        for name in by_age[: -self.keep_last]:
            if name != os.path.basename(newest):
                with contextlib.suppress(OSError):  # a file that cannot be removed must not stop the training
                    os.remove(os.path.join(self.save_dir, name))

    # ---- reading ----

    def has_checkpoint(self) -> bool:
        """Is there a checkpoint in `save_dir` to resume from?"""
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """Path of the last checkpoint in `save_dir`, also after the folder was moved; "" if there is none."""
        if not self.save_dir:
            return ""
        try:
            with open(os.path.join(self.save_dir, LAST_CHECKPOINT), encoding="utf-8") as file:
                noted = file.read().strip()
        except OSError:
            return ""
        beside = os.path.join(self.save_dir, os.path.basename(noted))
        for path in (beside, noted):
            if os.path.isfile(path):
                return path
        self.logger.warning("%s names %s, which does not exist", os.path.join(self.save_dir, LAST_CHECKPOINT), noted)
        return ""

    def load(self, path: str | os.PathLike[str] | None = None, resume: bool = False) -> dict[str, Any]:
        """Load the weights of `path`, or with `resume` everything from the last checkpoint of `save_dir`.

        Args:
            path: what `read` of this class accepts; None or "" leaves the model as it is. With `resume`, `path` is used
                only if `save_dir` has no checkpoint yet, and only its weights are loaded.
            resume: continue a run: all tensors must fit the model; optimizer and schedule are restored as well.
        Returns: the other entries of the checkpoint. Without `resume` only what describes the weights, "categories" and
            "keypoint_spec", as far as the checkpoint has them.
        Raises: CheckpointError; FileNotFoundError.
        """
        if resume and self.has_checkpoint():
            return self._resume(self.get_checkpoint_file())
        if not path:
            self.logger.info("no weights to load: the model starts from its initialisation")
            return {}
        path = os.fspath(path)
        self.logger.info("loading weights from %s", path)
        content = self.read(path)
        report = self._load_weights(content.pop("model"), path)
        report.log(self.logger, os.path.basename(path))
        if not report.loaded:
            names = [*report.unused, *report.mis_shaped]
            raise CheckpointError(
                f"{path}: none of its {len(names)} tensors fits the model; their names are {', '.join(names[:3])}, ... "
                "Do the weights belong to another architecture than the config's?"
            )
        return {key: value for key, value in content.items() if key in DESCRIPTIONS}

    def _resume(self, path: str) -> dict[str, Any]:
        content = self.read(path)
        self.logger.info("resuming from %s, iteration %s", path, content.get("iteration", "unknown"))
        report = load_weights(self.model, content.pop("model"), self.names)
        report.log(self.logger, os.path.basename(path))
        if not report.complete:
            names = [*report.missing, *report.mis_shaped]
            raise CheckpointError(
                f"cannot resume from {path}: it does not fit the model ({len(report.missing)} tensors missing, "
                f"{len(report.mis_shaped)} of a different shape: {', '.join(names[:3])}, ...). Resume with the config "
                "of that run, or start a new run with another OUTPUT_DIR and this file as MODEL.WEIGHT."
            )
        if self.optimizer is not None and "optimizer" in content:
            restore_optimizer(self.optimizer, content["optimizer"], self.model)
        if self.scheduler is not None and "scheduler" in content:
            self.scheduler.load_state_dict(content["scheduler"])
        return {key: value for key, value in content.items() if key not in ("optimizer", "scheduler")}

    def _load_weights(self, state: Mapping[str, Tensor], path: str) -> LoadReport:
        """Copy the weights of `path`. A subclass may understand more names."""
        return load_weights(self.model, state, self.names)

    def read(self, path: str) -> dict[str, Any]:
        """Read a checkpoint file to the CPU. The result has the weights under "model".

        Accepts what `save` writes, bare state dicts, and `.safetensors`. Raises: FileNotFoundError, CheckpointError.
        """
        check_exists(path)
        if path.endswith(".safetensors"):
            return {"model": read_safetensors(path)}
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged or malicious file can cause any error
            raise CheckpointError(
                f"cannot read {path}: {_reason(error)}. A checkpoint is read as data: it may hold tensors, numbers, "
                "text and plain containers, and is refused if it asks for code or is damaged."
            ) from error
        return _with_model(content, path)


def check_exists(path: str) -> None:
    """Raises: FileNotFoundError if there is no file."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there is no weights file {path} (MODEL.WEIGHT or --ckpt).")


def _unwrap(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel, DataParallel or torch.compile."""
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def _with_model(content: Any, path: str) -> dict[str, Any]:
    """Put the weights under "model": accepts bare state dicts, and the keys of other projects, also nested."""
    if isinstance(content, Mapping):
        if any(isinstance(value, Tensor) for value in content.values()):
            return {"model": strip_prefix_if_present(content)}
        for key in _WEIGHT_KEYS:
            if isinstance(content.get(key), Mapping):
                rest = {name: value for name, value in content.items() if name != key}
                return {**rest, "model": _with_model(content[key], path)["model"]}
    raise CheckpointError(f'{path} holds no weights; expected a state dict, or a dictionary with one under "model".')


def _reason(error: Exception) -> str:
    """Return the name that a refused pickle asked for, or else the first sentence of PyTorch's message."""
    text = str(error).strip()
    asked_for = re.search(r"GLOBAL (\S+)", text)
    if asked_for:
        return f"it asks for {asked_for.group(1)}"
    return (re.split(r"[.\n](?:\s|$)", text)[0]) or type(error).__name__


def _check_plain(value: Any, where: str) -> None:
    """Raises: TypeError for what `torch.load(weights_only=True)` would refuse when the run is resumed."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            _check_plain(key, f"a key of {where}")
            _check_plain(entry, f"{where}[{key!r}]")
    elif isinstance(value, (list, tuple, set)):
        for number, entry in enumerate(value):
            _check_plain(entry, f"{where}[{number}]")
    elif not isinstance(value, _PLAIN) or type(value).__module__ == "numpy":
        raise TypeError(
            f"{where} is a {type(value).__name__}; a checkpoint holds tensors, numbers, text and containers of them."
        )


@contextlib.contextmanager
def replacing_file(path: str) -> Iterator[IO[bytes]]:
    """Open a file that replaces `path` if the block ends without an error; otherwise `path` stays as it was."""
    folder, name = os.path.split(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".part", dir=folder or ".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # a file of mkstemp is readable by its owner only
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
