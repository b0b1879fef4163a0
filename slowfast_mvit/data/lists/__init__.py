"""Lists of videos as columns that all processes share, and the catalog of data sets."""

from slowfast_mvit.data.lists.video_list import VideoList

__all__ = ["VideoList"]
