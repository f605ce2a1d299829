"""Reports to look at: data as the model sees it, predictions beside ground truth, refinement, training curves.

Each is a folder with pictures and one page, report.html, that needs no network: `files` keeps the folder, `page` and
`overlay` write the page; `results_files` and `matching` say what a test found and how it meets the annotations.
"""

from .curves import report_curves
from .dataset_report import report_dataset
from .files import ReportError
from .predictions_report import Options, report_predictions
from .refinement_report import report_refinement
from .results_files import read_results

__all__ = [
    "Options",
    "ReportError",
    "read_results",
    "report_curves",
    "report_dataset",
    "report_predictions",
    "report_refinement",
]
