"""Where options come from: the command line, the environment, a TOML file; the first that names an option counts.

cyclopts reads the command line and asks the other sources in turn. They are its config providers, written here because
its own read the environment of the process only and pass over a misspelt variable.
"""

import difflib
import os
import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cyclopts import App, Argument, ArgumentCollection, CycloptsError, Token
from cyclopts.exceptions import MissingArgumentError, UnknownOptionError, UnusedCliTokensError

from slotproxy.instances.errors import ConfigurationError
from slotproxy.proxy.options.commandline import PREFIX, Invocation, Source, application
from slotproxy.proxy.options.config import Settings
from slotproxy.proxy.options.option import Option, quoted

DELIMITER = "--"


def read(argv: Sequence[str], environ: Mapping[str, str]) -> Invocation:
    """What `slotproxy *argv` is to do, and with which settings.

    Raises ConfigurationError with one sentence; SystemExit after --help or --version was answered.
    """
    given, tail = _split(argv)
    app = application(_engine_arguments(tail), _environment(environ), _file)
    try:
        invocation: Invocation | None = app(given, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise ConfigurationError(_sentence(error)) from None
    if invocation is None:
        raise SystemExit(0)
    invocation.settings.check(environ)
    return invocation


def load(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """The settings alone. May be called again, to read the file anew. Raises as `read` does."""
    return read(argv, environ).settings


def _split(argv: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """The command line before and after `--`; None: there was none."""
    if DELIMITER not in argv:
        return list(argv), None
    place = argv.index(DELIMITER)
    return list(argv[:place]), list(argv[place + 1 :])


def _engine_arguments(tail: list[str] | None) -> Source:
    def give(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        for argument, option in _options(arguments).values():
            if option.tail and argument.tokens:
                raise ConfigurationError(
                    f"{argument.name} is no option: put the arguments of engines after --, as in -- --threads 4"
                )
            if option.tail and tail:
                _give(argument, option, tail, DELIMITER)

    return give


def _environment(environ: Mapping[str, str]) -> Source:
    def give(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        known = {PREFIX + name.upper().replace("-", "_"): found for name, found in _options(arguments).items()}
        for variable in sorted(environ):
            if variable.startswith(PREFIX):
                _check_known(variable, known, f"the environment variable {variable} is no option of slotproxy")
                argument, option = known[variable]
                _give(argument, option, _words(environ[variable], variable, option), variable)

    return give


def _words(text: str, variable: str, option: Option) -> list[str]:
    if option.tail:
        try:
            return shlex.split(text)
        except ValueError as error:
            raise ConfigurationError(f"{variable} cannot be split as a shell would: {error}") from None
    return (option.many and text.split()) or [text]


def _file(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    known = _options(arguments)
    tokens = known["config"][0].tokens
    if not tokens:
        return
    path = Path(os.path.expanduser(tokens[-1].value))
    for key, value in _read_toml(path, tokens[-1]).items():
        _check_known(key, known, f"{key} in {path} is no option of slotproxy")
        if key == "config":
            raise ConfigurationError(f"config cannot stand in {path} itself: name the file on the command line")
        argument, option = known[key]
        _give(argument, option, _texts(value, option, f"{key} in {path}"), f"{key} in {path}")


def _read_toml(path: Path, token: Token) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise ConfigurationError(f"{token.keyword} {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{token.keyword} {path} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{token.keyword} {path} is not valid TOML: {error}") from None


def _texts(value: Any, option: Option, where: str) -> list[str]:
    """A TOML value as it would be written on the command line."""
    values = value if isinstance(value, list) and option.many else [value]
    for each in values:
        if option.kind.flag and isinstance(each, bool):
            continue
        if isinstance(each, bool) or not isinstance(each, str | int | float):
            several = ", or a list of these" if option.many else ""
            raise ConfigurationError(f"{where} must be a string or a number{several}")
    return [str(each) for each in values]


def _options(arguments: ArgumentCollection) -> dict[str, tuple[Argument, Option]]:
    found = ((argument, argument.parameter.converter) for argument in arguments)
    return {
        argument.name.removeprefix("--"): (argument, option) for argument, option in found if isinstance(option, Option)
    }


def _give(argument: Argument, option: Option, values: Iterable[str], keyword: str) -> None:
    """Take `values`, unless a source before this one gave the option: then they are checked all the same."""
    tokens = [Token(keyword=keyword, value=value, source=keyword, index=index) for index, value in enumerate(values)]
    if argument.tokens and tokens:
        option(object, tokens)
    elif not argument.tokens:
        for token in tokens:
            argument.append(token)


def _check_known(name: str, known: Iterable[str], sentence: str) -> None:
    names = list(known)
    if name not in names:
        raise ConfigurationError(sentence + _suggestion(name, names))


def _suggestion(name: str, names: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _sentence(error: CycloptsError) -> str:
    """What cyclopts refused, in our words."""
    if isinstance(error, UnknownOptionError):
        name = (error.token.keyword or error.token.value).partition("=")[0]
        names = [f"--{name}" for name, (_, option) in _options(error.argument_collection).items() if not option.tail]
        return f"{name} is no option of slotproxy{_suggestion(name, names) or ': see slotproxy --help'}"
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        name = error.argument.name
        return f"{name} needs a value (one that begins with - is written as {name}=VALUE)"
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        return f"{quoted(error.unused_tokens[0])} was not expected on the command line: see slotproxy --help"
    return " ".join(str(error).split())
