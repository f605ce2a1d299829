"""Moving pictures: cameras, videos and image files in; videos, image files, windows and results out."""

from .pipeline import Pipeline, PipelineReport
from .sinks import open_sink
from .sources import open_source
from .stream import Frame, Result, StreamError

__all__ = ["Frame", "Pipeline", "PipelineReport", "Result", "StreamError", "open_sink", "open_source"]
