"""Cameras, videos and image files as input; videos, image files, windows and JSON as output."""

from .pipeline import Pipeline
from .rate import PipelineReport, Rate
from .sinks import open_sink
from .sources import open_source
from .stream import Frame, Result, StreamError

__all__ = ["Frame", "Pipeline", "PipelineReport", "Rate", "Result", "StreamError", "open_sink", "open_source"]
