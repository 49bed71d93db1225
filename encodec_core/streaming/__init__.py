"""Audio to codes and back while it arrives: equal to the whole recording at once, in memory that does not grow."""

from encodec_core.config import why_not_streamed
from encodec_core.streaming.decoder import StreamingDecoder
from encodec_core.streaming.encoder import StreamingEncoder
from encodec_core.streaming.lanes import Lane, StreamingLanes

__all__ = ["Lane", "StreamingDecoder", "StreamingEncoder", "StreamingLanes", "why_not_streamed"]
