"""A console of rich that shows the control characters of texts instead of obeying them."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from drmad_client.cli.output.terminal import shown


class SafeConsole(Console):
    """Its own control sequences, such as colours, stay."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            text, style, control = segment
            yield segment if control else Segment(shown(text), style, control)
