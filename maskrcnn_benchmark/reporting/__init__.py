"""Reports to look at: data as the model sees it, predictions beside ground truth, refinement, training curves.

Each report is a folder with pictures and one page, report.html, that needs no network. `files` manages the folder and
`page` writes the page. `results_files` reads the results of a test, `overlaps` and `matching` compare them with the
annotations, and `results_report` has what the two reports of results share. The pictures are drawn by `drawing`.
"""

from .curves import report_curves
from .dataset_report import report_dataset
from .files import ReportError
from .predictions_report import report_predictions
from .refinement_report import report_refinement
from .results_files import read_results
from .results_report import Options

__all__ = [
    "Options",
    "ReportError",
    "read_results",
    "report_curves",
    "report_dataset",
    "report_predictions",
    "report_refinement",
]
