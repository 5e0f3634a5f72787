"""A reading in words, for model cards and errors."""

from consilia.config.reading import FixedWindows, PercentileWindow, Reading

_FITS = {
    "pad": "whole, its sides in proportion, on a black square",
    "crop": "by its central square",
    "stretch": "with its sides scaled apart",
}
_FRAMES = {
    "single": "A file with several frames is refused.",
    "first": "Of a file with several frames the first is taken.",
    "middle": "Of a file with several frames the middle one is taken.",
    "each": "Each frame of a file is an image of its own.",
}


def describe_window(reading: Reading) -> str:
    """Return which values become grey, without a full stop."""
    window = reading.window
    if isinstance(window, FixedWindows):
        windows = [f"{each.name} {each.center:g}/{each.width:g}".strip() for each in window.windows]
        return "grey values by centre and width of " + ", ".join(windows)
    if isinstance(window, PercentileWindow):
        return f"grey values from the image's percentiles {window.low:g} to {window.high:g}"
    return "grey values as the file says: its own window, or the full range of its type"


def describe_reading(reading: Reading) -> str:
    """Return in sentences how a file becomes stored pixels."""
    if isinstance(reading.window, FixedWindows) and len(reading.window.windows) > 1:
        channels = "one channel a window"
    else:
        channels = {1: "grey", 3: "RGB"}[reading.channels]
    return (
        f"An image is fitted to {reading.size} x {reading.size} pixels, {channels}, {_FITS[reading.fit]}; "
        f"{describe_window(reading)}. {_FRAMES[reading.frames]}"
    )
