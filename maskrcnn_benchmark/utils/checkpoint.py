"""Checkpoints: written whole or not at all, read as mere data, resumed exactly or loaded for their weights alone."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from typing import IO, Any

import torch
from torch import Tensor, nn

from .c2_model_loading import load_c2_format
from .comm import is_main_process
from .imports import import_file
from .miscellaneous import mkdir
from .model_serialization import LoadReport, load_state_dict, strip_prefix_if_present
from .model_zoo import cache_url
from .optimizer_state import restore_optimizer
from .safetensors_file import read_safetensors

LAST_CHECKPOINT = "last_checkpoint"  # a file that holds the path of the newest checkpoint
_NUMBERED = re.compile(r"model_(\d+)\.pth")  # checkpoints that KEEP_LAST counts; model_final and others stay
_PLAIN = (type(None), bool, int, float, str, Tensor, torch.dtype, torch.device)


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written, read or used; says which and what to do."""


class Checkpointer:
    """Saves and loads a model with all that training needs.

    Files hold {"model": weights, "optimizer": ..., "scheduler": ..., and what `save` is given, "iteration" above all}.

    Args:
        model: a DistributedDataParallel or torch.compile wrapper around it is seen through.
        optimizer, scheduler: None where only weights are of interest.
        save_dir: folder of the checkpoints; "" to load only.
        save_to_disk: does this process write? By default the main process does.
        logger: where to report.
        keep_last: numbered checkpoints to keep, the newest; 0 keeps all.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
        save_dir: str | os.PathLike[str] = "",
        save_to_disk: bool | None = None,
        logger: logging.Logger | None = None,
        *,
        keep_last: int = 0,
    ) -> None:
        self.model = _unwrapped(model)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.save_dir = os.fspath(save_dir)
        self.save_to_disk = is_main_process() if save_to_disk is None else save_to_disk
        self.logger = logger if logger is not None else logging.getLogger(__name__)
        self.keep_last = keep_last

    # ---- writing ----

    def save(self, name: str, **extra: Any) -> None:
        """Write `save_dir/name.pth` and make it the last checkpoint.

        Args:
            extra: more to keep: numbers, text, tensors, and lists, tuples or dictionaries of them ("iteration",
                "random_states", "categories", ...).
        Raises: TypeError for anything else, which loading would refuse later; CheckpointError when writing fails.
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
            with _replacing(path) as file:
                torch.save(content, file)
            with _replacing(os.path.join(self.save_dir, LAST_CHECKPOINT)) as file:
                file.write(path.encode())
        except (OSError, RuntimeError) as error:  # PyTorch turns a full disk into a RuntimeError
            raise CheckpointError(
                f"cannot write the checkpoint {path}: {error}. Earlier checkpoints are as they were. "
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
                with contextlib.suppress(OSError):  # a file that cannot be removed is no reason to end a training
                    os.remove(os.path.join(self.save_dir, name))

    # ---- reading ----

    def has_checkpoint(self) -> bool:
        """Is there a checkpoint in `save_dir` to resume from?"""
        return bool(self.get_checkpoint_file())

    def get_checkpoint_file(self) -> str:
        """Path of the last checkpoint in `save_dir`; "" where there is none. Holds after the folder has been moved."""
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
        """Weights from `path`, or with `resume` everything from the last checkpoint of `save_dir`.

        Args:
            path: a file, or whatever `read` of this class knows; None or "" leaves the model as it is. With `resume` it
                is used where `save_dir` holds no checkpoint yet, and then only its weights.
            resume: continue a run: the model must fit completely, optimiser and schedule are restored as well.
        Returns: what else the checkpoint holds; of a mere load of weights only "categories", if it has them.
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
        report = self._load_model(content.pop("model"), path)
        if not report.loaded:
            names = [*report.unused, *report.mis_shaped]
            raise CheckpointError(
                f"{path}: not one of its {len(names)} tensors fits the model; it names {', '.join(names[:3])}, ... "
                "Is it of another architecture than the config?"
            )
        return {key: value for key, value in content.items() if key == "categories"}

    def _resume(self, path: str) -> dict[str, Any]:
        content = self.read(path)
        self.logger.info("resuming from %s, iteration %s", path, content.get("iteration", "unknown"))
        report = self._load_model(content.pop("model"), path)
        if not report.complete:
            names = [*report.missing, *report.mis_shaped]
            raise CheckpointError(
                f"cannot resume from {path}: it does not fit the model ({len(report.missing)} tensors missing, "
                f"{len(report.mis_shaped)} of another shape: {', '.join(names[:3])}, ...). Resume with the config of "
                "that run, or start another: with an OUTPUT_DIR of its own and this file as MODEL.WEIGHT."
            )
        if self.optimizer is not None and "optimizer" in content:
            restore_optimizer(self.optimizer, content["optimizer"], self.model)
        if self.scheduler is not None and "scheduler" in content:
            self.scheduler.load_state_dict(content["scheduler"])
        return {key: value for key, value in content.items() if key not in ("optimizer", "scheduler")}

    def _load_model(self, state: Mapping[str, Tensor], source: str) -> LoadReport:
        report = load_state_dict(self.model, state)
        report.log(self.logger, os.path.basename(source))
        return report

    def read(self, path: str) -> dict[str, Any]:
        """Content of a checkpoint file, on the CPU, with the weights under "model".

        Reads what `save` writes, bare state dicts, and `.safetensors`. Raises: FileNotFoundError, CheckpointError.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no weights file {path} (MODEL.WEIGHT or --ckpt).")
        if path.endswith(".safetensors"):
            return {"model": read_safetensors(path)}
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever a damaged or dishonest file makes of it
            raise CheckpointError(
                f"cannot read {path}: {_reason(error)}. A checkpoint is read as data: it may hold tensors, numbers, "
                "text and plain containers, and is refused if it asks for code or is damaged."
            ) from error
        return _with_model(content, path)


class DetectronCheckpointer(Checkpointer):
    """A `Checkpointer` that also reads `catalog://` names, http(s) URLs and Detectron's `.pkl` files.

    Args:
        cfg: for PATHS_CATALOG and SOLVER.KEEP_LAST; the rest as for `Checkpointer`.
    """

    def __init__(
        self,
        cfg: Any,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        scheduler: Any = None,
        save_dir: str | os.PathLike[str] = "",
        save_to_disk: bool | None = None,
        logger: logging.Logger | None = None,
    ) -> None:
        super().__init__(model, optimizer, scheduler, save_dir, save_to_disk, logger, keep_last=cfg.SOLVER.KEEP_LAST)
        self.cfg = cfg

    def read(self, path: str) -> dict[str, Any]:
        if path.startswith("catalog://"):
            catalog = import_file("maskrcnn_benchmark.config.paths_catalog", self.cfg.PATHS_CATALOG).ModelCatalog
            url = catalog.get(path[len("catalog://") :])
            self.logger.info("%s is %s", path, url)
            path = url
        if path.startswith(("http://", "https://")):
            path = cache_url(path)
        if path.endswith(".pkl"):
            if not os.path.isfile(path):
                raise FileNotFoundError(f"there is no weights file {path} (MODEL.WEIGHT or --ckpt).")
            return {"model": load_c2_format(path)}
        return super().read(path)


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, DataParallel or torch.compile."""
    while True:
        if isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
            model = model.module
        elif hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def _with_model(content: Any, path: str) -> dict[str, Any]:
    """A checkpoint with its weights under "model": bare state dicts and other code bases' "state_dict" are wrapped."""
    if isinstance(content, Mapping):
        for key in ("model", "state_dict"):
            if isinstance(content.get(key), Mapping):
                rest = {name: value for name, value in content.items() if name != key}
                return {**rest, "model": strip_prefix_if_present(content[key])}
        if any(isinstance(value, Tensor) for value in content.values()):
            return {"model": strip_prefix_if_present(content)}
    raise CheckpointError(f'{path} holds no weights; expected a state dict, or a dictionary with one under "model".')


def _reason(error: Exception) -> str:
    """The first sentence of PyTorch's many; of a refused pickle the name that it asked for."""
    text = str(error).strip()
    asked_for = re.search(r"GLOBAL (\S+)", text)
    if asked_for:
        return f"it asks for {asked_for.group(1)}"
    return (re.split(r"[.\n](?:\s|$)", text)[0]) or type(error).__name__


def _check_plain(value: Any, where: str) -> None:
    """Raises: TypeError for what `torch.load(weights_only=True)` would refuse, now rather than at the resume."""
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
def _replacing(path: str) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` when the block ends well; else `path` stays as it was."""
    folder, name = os.path.split(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", suffix=".part", dir=folder or ".")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's files are private
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
