"""What processes tell each other: in two processes over gloo, and in one without a group."""

import os
import socket
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from maskrcnn_benchmark.utils import comm


def test_one_process_needs_no_group():
    assert (comm.get_world_size(), comm.get_rank(), comm.is_main_process()) == (1, 0, True)
    comm.synchronize()
    values = {"a": torch.tensor(1.0)}
    assert comm.all_gather(values) == [values]
    assert comm.gather("x") == ["x"]
    assert comm.broadcast(3) == 3
    assert comm.reduce_dict(values)["a"] is values["a"]
    assert comm.reduce_dict({}) == {}


def _free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _worker(rank, port, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    assert (comm.get_world_size(), comm.get_rank(), comm.is_main_process()) == (2, rank, rank == 0)

    # objects of different sizes, with tensors in them
    gathered = comm.all_gather({"rank": rank, "boxes": torch.arange(rank * 3)})
    assert [entry["rank"] for entry in gathered] == [0, 1]
    assert [len(entry["boxes"]) for entry in gathered] == [0, 3]
    assert comm.gather("x" * (rank + 1)) == (["x", "xx"] if rank == 0 else [])
    assert comm.gather(rank, destination=1) == ([0, 1] if rank == 1 else [])
    assert comm.broadcast([rank, "text"], source=1) == [1, "text"]

    # keys in another order in each process must not be mixed up
    own = {"a": torch.tensor(1.0 + rank, requires_grad=True), "b": torch.tensor(10.0 * (1 + rank))}
    values = own if rank == 0 else dict(reversed(own.items()))
    reduced = comm.reduce_dict(values)
    assert list(reduced) == list(values)
    assert (reduced["a"].item(), reduced["b"].item()) == (1.5, 15.0)
    assert not reduced["a"].requires_grad
    assert comm.reduce_dict(values, average=False)["b"].item() == 30.0
    assert values["a"].item() == 1.0 + rank

    # nobody passes before all have come
    flag = Path(folder, "written")
    if rank == 1:
        flag.write_text("")
    comm.synchronize()
    assert flag.exists()

    dist.destroy_process_group()
    assert comm.get_world_size() == 1
    Path(folder, f"done{rank}").write_text("")


@pytest.mark.slow
def test_two_processes_over_gloo():
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_worker, args=(_free_port(), folder), nprocs=2)
        assert sorted(path.name for path in Path(folder).glob("done*")) == ["done0", "done1"]
