"""The commands of `slotproxy`, and their help. Which options they take follows from the settings."""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, ArgumentCollection, Parameter

from slotproxy.proxy.config import Settings

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

PREFIX = "SLOTPROXY_"
# A bracket that opens a word is escaped for rich, to which it would begin a tag.
USAGE = "Usage: slotproxy \\[serve] [OPTIONS] [-- ENGINE_ARGS...]"
EPILOGUE = (
    f"--queue-limit, for example, is also {PREFIX}QUEUE_LIMIT in the environment and queue-limit in the file "
    "that --config names; the command line counts before the environment, the environment before the file."
)

Source = Callable[[App, tuple[str, ...], ArgumentCollection], None]
Given = Annotated[Settings | None, Parameter(name="*")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One command as it was given."""

    command: str
    settings: Settings


def application(*sources: Source) -> App:
    """Answers with an Invocation, or with None after --help or --version."""
    app = App(
        name="slotproxy",
        version=lambda: importlib.metadata.version("slotproxy"),
        usage=USAGE,
        help="Several single-slot engine processes that share one model file, behind one OpenAI-compatible endpoint.",
        help_epilogue=EPILOGUE,
        help_format="plaintext",
        help_formatter=_without_boxes,
        group_parameters="Options",
        config=sources,
        result_action="return_value",
    )
    app.default(_serve)
    app.command(_serve, name="serve", usage=USAGE, help="Run the proxy (also without this word).")
    return app


def _serve(*, settings: Given = None) -> Invocation:
    return Invocation(command="serve", settings=settings or Settings())


def _without_boxes(console: "Console", options: "ConsoleOptions", panel: "HelpPanel") -> None:
    """Two columns, which can be copied, searched and read aloud."""
    from cyclopts.help import DefaultFormatter, PanelSpec  # here: they cost memory that only --help needs
    from rich.box import Box

    blank = Box("    \n" * 8, ascii=True)
    DefaultFormatter(panel_spec=PanelSpec(box=blank, padding=(0, 0)))(console, options, panel)
