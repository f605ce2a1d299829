"""How a run starts: its arguments, processes, log, checks and seed; `start_run` goes through them in order."""

from .arguments import argument_parser
from .checks import check_model, check_test_data, warn_about_disk_space
from .errors import EXIT_STOPPED, StartupError, friendly_errors, startup_errors
from .processes import Process, distribute, join_process_group, leave_process_group, select_device
from .seed import be_deterministic, choose_seed, seed_everything
from .start import Run, start_run
from .weights import load_trained_weights

__all__ = [
    "EXIT_STOPPED",
    "Process",
    "Run",
    "StartupError",
    "argument_parser",
    "be_deterministic",
    "check_model",
    "check_test_data",
    "choose_seed",
    "distribute",
    "friendly_errors",
    "join_process_group",
    "leave_process_group",
    "load_trained_weights",
    "seed_everything",
    "select_device",
    "start_run",
    "startup_errors",
    "warn_about_disk_space",
]
