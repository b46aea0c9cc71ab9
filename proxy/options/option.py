"""What one option is: how its value is written, its help, and how cyclopts is told both."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from cyclopts import Parameter, Token

from slotproxy.instances.errors import ConfigurationError
from slotproxy.proxy.options.values import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option. A field of a settings class carries it in its annotation, as made by `option`.

    `unset` tells what happens without a value where the default cannot. The value of a `secret` is never repeated.
    `tail` is what follows `--` on the command line. `plan`: it bears on which engines would run and how, so the help of
    `slotproxy plan` and `slotproxy engines` shows it, too.
    """

    kind: Kind
    help: str
    unset: str = ""
    metavar: str = ""
    many: bool = False
    secret: bool = False
    tail: bool = False
    plan: bool = False

    def __call__(self, _: type, tokens: Sequence[Token]) -> Any:
        """The value that `tokens` say; of several where one is wanted the last. Raises ConfigurationError."""
        return tuple(map(self._read, tokens)) if self.many else self._read(tokens[-1])

    def _read(self, token: Token) -> Any:
        if self.kind.flag and token.implicit_value is True:  # on the command line, where nothing follows it
            return True
        if not token.value.strip() and not self.tail:
            raise ConfigurationError(f"{token.keyword} is empty: give it a value, or leave it out")
        try:
            return self.kind.read(token.value)
        except ValueError as error:
            said = "" if self.secret else f"is {quoted(token.value)}, but "
            raise ConfigurationError(f"{token.keyword} {said}{error}") from None

    def default(self, value: Any) -> str:
        """The default `value` as a user would write it."""
        return self.unset or self.kind.show(value)


def option(kind: Kind, text: str, **more: Any) -> Parameter:
    """The annotation of a field of a settings class; `more` are fields of `Option`."""
    found = Option(kind=kind, help=text, **more)
    return Parameter(
        help=text,
        converter=found,
        metavar=found.metavar or kind.metavar,
        show=not found.tail,
        show_default=found.default,
        n_tokens=0 if kind.flag else 1,
        allow_repeating=True,  # the last one counts, so that a script's option can be overridden after it
        negative=(),
        accepts_keys=False,
        json_list=False,
        json_dict=False,
    )


def options(settings: type) -> Iterator[tuple[str, Option, Any]]:
    """Name, option and default of each field of a settings class."""
    hints = get_type_hints(settings, include_extras=True)
    defaults = settings()
    for found in fields(settings):
        (parameter,) = hints[found.name].__metadata__
        yield found.name.replace("_", "-"), parameter.converter, getattr(defaults, found.name)


def table(settings: type) -> str:
    """The options of a settings class as a Markdown table."""
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for name, found, value in options(settings):
        written = "-- ENGINE_ARGS..." if found.tail else f"--{name} {found.metavar or found.kind.metavar}".rstrip()
        default = found.unset or f"`{found.default(value)}`"
        repeatable = " Repeatable." if found.many and not found.tail else ""
        rows.append(
            "| "
            + " | ".join(cell.replace("|", "\\|") for cell in (f"`{written}`", default, found.help + repeatable))
            + " |"
        )
    return "\n".join(rows) + "\n"


def quoted(text: str) -> str:
    """For a sentence: nobody wants to read a whole file there."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
