"""Where the boxes and lines of the state diagram are: once for a wide window, and once for a phone."""

from dataclasses import dataclass

from streaming.retry import State

Pair = tuple[State, State]


@dataclass(frozen=True, slots=True)
class Label:
    """The place of a reason, its anchor, and whether it is written upwards."""

    x: int
    y: int
    anchor: str = "start"
    is_upright: bool = False


@dataclass(frozen=True, slots=True)
class DiagramLayout:
    """A layout of all states and transitions, in pixels at full size.

    Lines are straight. Those that end an answer share a rail for each ending, and lines cross at right angles only.
    """

    name: str
    width: int
    height: int
    boxes: dict[State, tuple[int, int, int, int]]
    """Left, top, width and height of each state's box."""
    endings: dict[State, tuple[int, int, int, int]]
    """For each ending: the height of its port at a box relative to the middle, its rail's x, and its line's end."""
    paths: dict[Pair, str]
    """The lines between states that end no answer."""
    labels: dict[Pair, Label]
    """The reasons at these lines; those at vertical arrows that stand close have an arrow of their own."""


LANDSCAPE = DiagramLayout(
    "landscape",
    900,
    345,
    {
        "idle": (10, 30, 100, 40),
        "streaming": (330, 15, 150, 70),
        "retrying": (330, 135, 150, 70),
        "fallback": (330, 255, 150, 70),
        "succeeded": (780, 8, 112, 40),
        "cancelled": (780, 150, 112, 40),
        "failed": (780, 292, 112, 40),
    },
    {"succeeded": (-22, 660, 28, 777), "cancelled": (0, 700, 170, 777), "failed": (22, 740, 312, 777)},
    {
        ("idle", "streaming"): "M110 50H327",
        ("idle", "fallback"): "M60 70V312H327",
        ("streaming", "retrying"): "M375 85V132",
        ("retrying", "streaming"): "M435 135V88",
        ("retrying", "fallback"): "M375 205V252",
        ("fallback", "retrying"): "M435 255V208",
        ("streaming", "fallback"): "M330 72H300V268H327",
        ("fallback", "streaming"): "M330 290H180V28H327",
    },
    {
        ("idle", "streaming"): Label(116, 44),
        ("idle", "fallback"): Label(66, 306),
        ("streaming", "retrying"): Label(488, 106),
        ("retrying", "streaming"): Label(488, 123),
        ("retrying", "fallback"): Label(488, 226),
        ("fallback", "retrying"): Label(488, 243),
        ("streaming", "fallback"): Label(294, 174, "end"),
        ("fallback", "streaming"): Label(174, 174, "end"),
    },
)
PORTRAIT = DiagramLayout(
    "portrait",
    360,
    545,
    {
        "idle": (90, 6, 100, 36),
        "streaming": (90, 76, 100, 70),
        "retrying": (90, 196, 100, 70),
        "fallback": (90, 316, 100, 70),
        "succeeded": (90, 410, 100, 36),
        "cancelled": (90, 456, 100, 36),
        "failed": (90, 502, 100, 36),
    },
    {"succeeded": (-22, 306, 428, 193), "cancelled": (0, 328, 474, 193), "failed": (22, 350, 520, 193)},
    {
        ("idle", "streaming"): "M140 42V73",
        ("idle", "fallback"): "M90 24H18V371H87",
        ("streaming", "retrying"): "M108 146V193",
        ("retrying", "streaming"): "M128 196V149",
        ("retrying", "fallback"): "M108 266V313",
        ("fallback", "retrying"): "M128 316V269",
        ("streaming", "fallback"): "M90 131H66V336H87",
        ("fallback", "streaming"): "M90 351H42V96H87",
    },
    {
        ("idle", "streaming"): Label(147, 61),
        ("idle", "fallback"): Label(13, 224, "middle", is_upright=True),
        ("streaming", "retrying"): Label(136, 167),
        ("retrying", "streaming"): Label(136, 184),
        ("retrying", "fallback"): Label(136, 287),
        ("fallback", "retrying"): Label(136, 304),
        ("streaming", "fallback"): Label(61, 234, "middle", is_upright=True),
        ("fallback", "streaming"): Label(37, 224, "middle", is_upright=True),
    },
)
