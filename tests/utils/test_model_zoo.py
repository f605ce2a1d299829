"""Downloads, from a web server on this machine."""

import functools
import hashlib
import http.server
import logging
import threading
from pathlib import Path

import pytest

from maskrcnn_benchmark.utils.model_zoo import cache_url

CONTENT = b"weights of a model"
HASH = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    (folder / "run" / "train").mkdir(parents=True)
    for name in ("w.pth", f"net-{HASH[:8]}.pth", "net-00000000.pth", "run/train/model_final.pkl"):
        (folder / name).write_bytes(CONTENT)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        requests = []

        def log_message(self, *args):
            self.requests.append(self.path)

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, args=(0.01,), daemon=True).start()
        web.requests = Quiet.requests
        web.address = f"http://127.0.0.1:{web.server_port}"
        yield web
        web.shutdown()


def test_a_file_is_downloaded_once_and_its_hash_logged(server, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        path = cache_url(f"{server.address}/w.pth", tmp_path / "cache", progress=False)
    assert Path(path).read_bytes() == CONTENT
    assert f"to pin it, use {server.address}/w.pth#sha256={HASH}" in caplog.text
    requests = len(server.requests)
    assert cache_url(f"{server.address}/w.pth", tmp_path / "cache") == path
    assert len(server.requests) == requests


@pytest.mark.parametrize("tail", [f"w.pth#sha256={HASH}", f"net-{HASH[:8]}.pth"])
def test_a_right_hash_passes_without_a_word(server, tmp_path, caplog, tail):
    with caplog.at_level(logging.WARNING):
        cache_url(f"{server.address}/{tail}", tmp_path, progress=False)
    assert not caplog.records


@pytest.mark.parametrize("tail", [f"w.pth#sha256={HASH[::-1]}", "net-00000000.pth"])
def test_a_wrong_hash_is_refused(server, tmp_path, tail):
    with pytest.raises(ValueError, match=f"has SHA-256 {HASH}; expected .* delete it to download it again"):
        cache_url(f"{server.address}/{tail}", tmp_path, progress=False)


def test_a_file_that_changed_in_the_cache_is_noticed(server, tmp_path):
    url = f"{server.address}/w.pth#sha256={HASH}"
    with open(cache_url(url, tmp_path, progress=False), "ab") as file:
        file.write(b"!")
    with pytest.raises(ValueError, match="damaged or not the expected one"):
        cache_url(url, tmp_path)


def test_files_that_share_a_last_name_do_not_share_a_copy(server, tmp_path):
    path = cache_url(f"{server.address}/run/train/model_final.pkl", tmp_path, progress=False)
    assert path.endswith("run_train_model_final.pkl")


def test_no_network_gives_the_ways_out(tmp_path):
    with pytest.raises(
        OSError, match=r"cannot download http://127.0.0.1:9/w.pth.*copy the file to .*w.pth, or set MODEL"
    ):
        cache_url("http://127.0.0.1:9/w.pth", tmp_path, progress=False)
    assert not list(tmp_path.glob("*.pth"))
