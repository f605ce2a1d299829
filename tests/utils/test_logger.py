import logging

import pytest

from maskrcnn_benchmark.utils.logger import setup_logger


@pytest.fixture
def name(request):
    yield (name := f"logger_of_{request.node.name}")
    for handler in logging.getLogger(name).handlers[:]:
        handler.close()
        logging.getLogger(name).removeHandler(handler)


def test_the_main_process_writes_to_screen_and_file(name, tmp_path, capsys):
    logger = setup_logger(name, tmp_path / "out", 0)
    logging.getLogger(f"{name}.part").info("hello")
    assert logger.name == name
    for text in (capsys.readouterr().out, (tmp_path / "out" / "log.txt").read_text()):
        assert text.rstrip().endswith(f"{name}.part INFO: hello")


def test_setting_up_again_repeats_nothing_and_keeps_the_file(name, tmp_path, capsys):
    for line in ("first", "second"):
        setup_logger(name, tmp_path).info(line)
    assert capsys.readouterr().out.count("second") == 1
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["first", "second"]


def test_other_processes_show_warnings_with_their_rank(name, tmp_path, capsys):
    logger = setup_logger(name, tmp_path / "out", distributed_rank=3)
    logger.info("quiet")
    logger.warning("loud")
    out = capsys.readouterr().out
    assert "quiet" not in out and "rank 3" in out and "loud" in out
    assert not (tmp_path / "out").exists()


def test_a_configured_root_logger_does_not_repeat_lines(name, tmp_path, caplog):
    setup_logger(name, tmp_path).warning("once")
    assert "once" not in caplog.text
