"""Download files, check them and keep them in a cache folder."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from urllib.error import URLError
from urllib.parse import unquote, urldefrag, urlparse

import torch

from .comm import is_main_process, synchronize
from .miscellaneous import mkdir

logger = logging.getLogger(__name__)

_HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,64})\.[a-z]+$")  # resnet50-0676ba61.pth: the start of the file's SHA-256
_CHUNK = 2**20


def cache_url(url: str, model_dir: str | os.PathLike[str] | None = None, progress: bool = True) -> str:
    """Download the file at `url` once, in the main process, and return the path of the local copy. Collective.

    The copy is checked against the SHA-256 in the URL, either `#sha256=<hex>` at its end or the end of the file's name
    (`name-0676ba61.pth`). If the URL has none, the SHA-256 of the download is logged, so that you can add it.

    Args:
        model_dir: cache folder; by default torch.hub's folder for checkpoints.
    Raises: OSError if the download fails; ValueError if the hash differs.
    """
    address, fragment = urldefrag(url)
    folder = os.fspath(model_dir) if model_dir is not None else os.path.join(torch.hub.get_dir(), "checkpoints")
    path = os.path.join(folder, _file_name(address))
    problem: Exception | None = None
    if is_main_process() and not os.path.exists(path):
        try:
            _download(address, path, progress, pinned=bool(_expected_hash(address, fragment)))
        except Exception as error:  # the other processes wait at `synchronize`; raise after it
            problem = error
    synchronize()
    if problem is not None:
        raise problem
    if not os.path.exists(path):
        raise OSError(f"{address} is not at {path}: the main process could not download it, see its error.")
    expected = _expected_hash(address, fragment)
    if expected:
        found = _sha256(path)
        if not found.startswith(expected):
            raise ValueError(
                f"{path} has SHA-256 {found}; expected {expected}{'...' if len(expected) < 64 else ''} for {address}. "
                "The file is damaged or not the expected one: delete it to download it again."
            )
    return path


def _file_name(address: str) -> str:
    """The last part of the path. Released detectors are all called model_final.pkl, so they get the whole path."""
    parts = [part for part in unquote(urlparse(address).path).split("/") if part]
    name = parts[-1] if parts else "download"
    return re.sub(r"[^\w.+-]", "_", "_".join(parts)) if name == "model_final.pkl" else name


def _expected_hash(address: str, fragment: str) -> str:
    if fragment.startswith("sha256="):
        return fragment[len("sha256=") :].lower()
    match = _HASH_IN_NAME.search(address)
    return match.group(1) if match else ""


def _download(address: str, path: str, progress: bool, pinned: bool) -> None:
    mkdir(os.path.dirname(path))
    logger.info("downloading %s to %s", address, path)
    try:
        torch.hub.download_url_to_file(address, path, progress=progress)  # writes to a temporary file first
    except (URLError, OSError) as error:
        raise OSError(
            f"cannot download {address}: {error}. Without a network, copy the file to {path}, or set MODEL.WEIGHT to a "
            'file that you have, or to "" for random weights.'
        ) from error
    if not pinned:
        logger.warning(
            "%s is unchecked, its URL has no hash; to pin it, use %s#sha256=%s", path, address, _sha256(path)
        )


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
