"""metrics.jsonl and TensorBoard files."""

import json
import logging

from maskrcnn_benchmark.engine.writers import JsonLinesWriter, Progress, build_writers
from maskrcnn_benchmark.utils.metric_logger import MetricLogger


def progress(iteration):
    return Progress(iteration, 10, 61.5, {"loss": 0.1 + 0.2, "time": 0.5, "data": 0.01}, 0.02, 100.0)


def test_json_lines_are_exact_and_a_resumed_run_drops_what_it_does_again(tmp_path):
    first = JsonLinesWriter(tmp_path)
    for iteration in (2, 4, 6):
        first.write_progress(progress(iteration), MetricLogger())
    first.write_evaluation(6, {"people_val/bbox/AP": 0.5})
    first.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 8, "lo')  # killed while writing
    second = JsonLinesWriter(tmp_path, start_iter=4)
    second.write_progress(progress(6), MetricLogger())
    second.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [2, 4, 6]
    assert lines[0]["loss"] == 0.1 + 0.2
    assert lines[0]["lr"] == 0.02 and lines[0]["eta_seconds"] == 61.5


def test_without_tensorboard_the_other_writers_remain(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    writers = build_writers(tmp_path, 0, logging.getLogger("anything"))
    assert len(writers) == 2
    assert "No TensorBoard files will be written" in caplog.text
    for writer in writers:
        writer.close()
