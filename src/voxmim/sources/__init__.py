"""Sources of scans: folders and lists; each kind has a file of its own."""

from voxmim.sources.numbered import channel_files
from voxmim.sources.opening import open_source
from voxmim.sources.source import Source, SourceCase

__all__ = ["Source", "SourceCase", "channel_files", "open_source"]
