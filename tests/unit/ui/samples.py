"""A sample meter reading and receipt of a complete answer, for tests to vary."""

from streaming.events import Usage
from streaming.meter import MeterReading
from streaming.pipeline import Receipt

READING = MeterReading(Usage(24, 130), None, 4.37, 1.61, 47.36)
RECEIPT = Receipt(
    outcome="completed",
    finish_reason="stop",
    finish_raw="stop",
    error=None,
    served_by="local",
    attempts=1,
    fell_back_to=None,
    delivered_chars=520,
    reading=READING,
    stop_s=None,
)
