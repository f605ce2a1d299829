"""Errors that a user can cause end with a message and an exit status."""

import logging

import pytest

from maskrcnn_benchmark.config import ConfigError
from maskrcnn_benchmark.engine.hooks import NonFiniteLossError
from maskrcnn_benchmark.engine.run.errors import StartupError, friendly_errors, startup_errors
from maskrcnn_benchmark.engine.run.processes import LaunchError
from maskrcnn_benchmark.engine.run.resume import ResumeError
from maskrcnn_benchmark.modeling import registry
from maskrcnn_benchmark.utils.checkpoint import CheckpointError
from maskrcnn_benchmark.utils.registry import UnknownNameError


def test_only_errors_of_this_package_are_taken_for_explanations():
    with pytest.raises(StartupError, match="'nothing' is not registered") as caught, startup_errors():
        registry.BACKBONES["nothing"]
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(ValueError, match="invalid literal"), startup_errors():
        int("x")
    for kind in (ConfigError, UnknownNameError):  # as a catalog of the user's own may raise
        with pytest.raises(StartupError, match="^do this instead$"), startup_errors():
            raise kind("do this instead")


@pytest.fixture
def package_logger():
    """The logger of the package, whose handlers are put back."""
    logger = logging.getLogger("maskrcnn_benchmark")
    handlers, propagate = logger.handlers[:], logger.propagate
    yield logger
    logger.handlers[:], logger.propagate = handlers, propagate


@pytest.mark.parametrize(
    "kind",
    [CheckpointError, ConfigError, FileNotFoundError, LaunchError, NonFiniteLossError, ResumeError, StartupError],
)
def test_errors_of_users_end_without_a_traceback(package_logger, kind, capsys):
    @friendly_errors
    def main(argv):
        """Does nothing."""
        raise kind(argv)

    assert main("do this instead") == 1
    out = capsys.readouterr().out
    assert "do this instead" in out and "Traceback" not in out
    assert (main.__name__, main.__doc__) == ("main", "Does nothing.")


def test_the_exit_status_of_main_is_kept_and_other_errors_are_not_hidden(package_logger):
    assert friendly_errors(lambda: 143)() == 143
    with pytest.raises(ZeroDivisionError):
        friendly_errors(lambda: 1 // 0)()


def test_an_error_in_a_loader_worker_is_shown_by_its_last_line(package_logger, capsys):
    @friendly_errors
    def main():
        raise OSError("Caught OSError in DataLoader worker process 0.\nTraceback ...\nOSError: 3.jpg is truncated")

    assert main() == 1
    out = capsys.readouterr().out
    assert "OSError: 3.jpg is truncated" in out and "Traceback" not in out
