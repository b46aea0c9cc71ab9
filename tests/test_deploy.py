"""The service files must leave a stop the time it may take, and only use options that exist."""

import configparser
import plistlib
import re
import tomllib
from pathlib import Path

from slotproxy.proxy.options.config import Settings
from slotproxy.proxy.options.sources import load

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
CLOSING = 10.0  # seconds for what lies between the drain and the end of the engines


def longest_stop() -> float:
    """Seconds from the signal to the end of the last engine, with the defaults and the slowest profile."""
    profiles = [
        tomllib.loads(path.read_text()) for path in (ROOT / ".links/slotproxy/instances/profiles").glob("*.toml")
    ]
    stops = [float(profile["stop"]["term"] + profile["stop"]["again"]) for profile in profiles]
    return Settings().drain_timeout + CLOSING + max(stops)


def unit() -> configparser.SectionProxy:
    parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(DEPLOY / "slotproxy.service")
    return parser["Service"]


def test_systemd_tells_only_the_proxy_to_stop_and_waits_for_the_longest_stop() -> None:
    assert unit()["KillMode"] == "mixed"
    assert float(unit()["TimeoutStopSec"]) >= longest_stop()


def test_launchd_waits_for_the_longest_stop() -> None:
    job = plistlib.loads((DEPLOY / "slotproxy.plist").read_bytes())
    assert job["ExitTimeOut"] >= longest_stop()


def test_the_services_and_their_configuration_use_options_that_exist(tmp_path: Path) -> None:
    job = plistlib.loads((DEPLOY / "slotproxy.plist").read_bytes())
    config = str(DEPLOY / "slotproxy.toml")
    for command in (unit()["ExecStart"].split(), job["ProgramArguments"]):
        place = {"/etc/slotproxy/slotproxy.toml": config, "/Users/YOU/.config/slotproxy.toml": config}
        arguments = [place.get(word, word).replace("${STATE_DIRECTORY}", str(tmp_path)) for word in command[1:]]
        assert load(arguments, {}).log_format == "json"


def test_what_is_commented_out_in_the_example_configuration_would_be_accepted(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-key\n")
    text = re.sub(r"(?m)^# (?=[a-z-]+ = )", "", (DEPLOY / "slotproxy.toml").read_text())
    config = tmp_path / "slotproxy.toml"
    config.write_text(text.replace("/etc/slotproxy/keys", str(keys)))
    assert load(["--config", str(config)], {}).keys() == ("a-key",)
