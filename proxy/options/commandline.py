"""The commands of `slotproxy`, and their help. Which options they take follows from the settings.

Every command takes every option, so that `plan` can be written before the options of a running proxy; the help of
`plan` and `engines` shows those that matter to them.
"""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, ArgumentCollection, Parameter

from slotproxy.proxy.options.config import Settings
from slotproxy.proxy.options.option import options

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

PREFIX = "SLOTPROXY_"
# A bracket that opens a word is escaped for rich, to which it would begin a tag.
USAGE = "Usage: slotproxy \\[serve] [OPTIONS] [-- ENGINE_ARGS...]"
PLAN_USAGE = "Usage: slotproxy plan [--json] [OPTIONS] [-- ENGINE_ARGS...]"
ENGINES_USAGE = "Usage: slotproxy engines [NAME|PATH] [--json] [OPTIONS] [-- ENGINE_ARGS...]"
EPILOGUE = (
    f"Every option can also be given in the environment ({PREFIX}QUEUE_LIMIT for --queue-limit) and in the file that "
    "--config names (queue-limit). The command line counts before the environment, the environment before the file."
)
SHORTER_EPILOGUE = "Every option of serve may be given; those that matter here are shown."

Source = Callable[[App, tuple[str, ...], ArgumentCollection], None]
Given = Annotated[Settings | None, Parameter(name="*")]
Json = Annotated[bool, Parameter(name="--json", negative=(), help="Print JSON.", show_default=False)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One command as it was given."""

    command: str
    settings: Settings
    json: bool = False
    engine: str | None = None  # of `engines`: the one to tell about


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
    app.command(
        _plan,
        name="plan",
        usage=PLAN_USAGE,
        help="Show what would run on this machine, and why; nothing is started.",
        help_epilogue=SHORTER_EPILOGUE,
        help_formatter=_of_what_runs,
    )
    app.command(
        _engines,
        name="engines",
        usage=ENGINES_USAGE,
        help="List the engine profiles, or show one: what was found and the exact command line of an instance.",
        help_epilogue=SHORTER_EPILOGUE,
        help_formatter=_of_what_runs,
    )
    return app


def _serve(*, settings: Given = None) -> Invocation:
    return Invocation(command="serve", settings=settings or Settings())


def _plan(*, json: Json = False, settings: Given = None) -> Invocation:
    return Invocation(command="plan", settings=settings or Settings(), json=json)


def _engines(
    engine: Annotated[str | None, Parameter(help="A profile's name or file.", show_default=False)] = None,
    /,
    *,
    json: Json = False,
    settings: Given = None,
) -> Invocation:
    return Invocation(command="engines", settings=settings or Settings(), json=json, engine=engine)


def _without_boxes(console: "Console", options: "ConsoleOptions", panel: "HelpPanel") -> None:
    """Two columns, which can be copied, searched and read aloud."""
    from cyclopts.help import DefaultFormatter, PanelSpec  # here: they cost memory that only --help needs
    from rich.box import Box

    blank = Box("    \n" * 8, ascii=True)
    DefaultFormatter(panel_spec=PanelSpec(box=blank, padding=(0, 0)))(console, options, panel)


def _of_what_runs(console: "Console", shape: "ConsoleOptions", panel: "HelpPanel") -> None:
    """Without the options that have nothing to do with which engines run."""
    hidden = {f"--{name}" for name, found, _ in options(Settings) if not found.plan}
    shown = [entry for entry in panel.entries if not hidden.intersection(entry.positive_names)]
    _without_boxes(console, shape, panel.copy(entries=shown))
