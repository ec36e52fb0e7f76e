"""Terminal console: prints people's words as they are. They are neither markup nor control sequences.

Names of presets, labels, notes, texts and replies come from others: an escape sequence in them could repaint the screen of
whoever lists them, or write into the clipboard.
"""

import re
from collections.abc import Iterable

from rich.console import Console
from rich.segment import Segment

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that a terminal obeys, and those that reorder a line; all but a line's end and a tabulator."""


def escape_controls(text: str) -> str:
    """Return a text with its control characters written as JSON writes them, such as `\\u001b`."""
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class TerminalConsole(Console):
    """Console without markup, which escapes the control characters of whatever it prints."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        """Escape the text of all segments; the console's own sequences are added behind this."""
        return super()._render_buffer(
            segment if segment.control else segment._replace(text=escape_controls(segment.text)) for segment in buffer
        )
