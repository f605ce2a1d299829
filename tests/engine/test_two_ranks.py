"""Two processes over gloo: gradients of accumulated batches, means in the log, errors and signals of one of them."""

import pytest
import torch
import torch.multiprocessing as mp

from maskrcnn_benchmark.engine.hooks import LogHook
from tests.engine.pair import make, work
from tests.engine.toy import Keep, ToyDetector, ToyLoader


@pytest.mark.slow
def test_two_ranks(tmp_path):
    mp.spawn(work, (str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pth", weights_only=True) for rank in range(2))

    torch.manual_seed(0)
    model, keep = ToyDetector(dropout=0), Keep()
    make(model, ToyLoader(8, batch_size=4), [LogHook(1, [keep])], max_iter=4, accumulate=2).train()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(first["trained"]["weights"][name], value)
        assert torch.equal(first["trained"]["weights"][name], second["trained"]["weights"][name])
    assert first["trained"]["losses"] == pytest.approx(keep.losses, rel=1e-5), "means over ranks are means over images"

    for message in (first["message"], second["message"]):
        assert message.splitlines()[0] == "the loss is not finite at iteration 4:"
        assert "images of this batch: image13, image15" in message, "those of the rank that saw them"
        assert "image12" not in message
    assert (first["stopped_at"], second["stopped_at"]) == (5, 5)
