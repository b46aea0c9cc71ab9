"""The plot of docs/routing.md, drawn from the laboratory's JSON: `chart.py FIGURES.json PICTURE`.

Runs in an environment that has matplotlib (`make bench-peers`), so that nothing else needs it.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

MACHINE = "two-cores"
PANELS = (
    ("chat-6", "later_mean", "6 chats: seconds to the first\ntoken of later turns, mean"),
    ("chat-12", "later_mean", "12 chats: the same"),
    ("agents-plain", "later_mean", "6 coding agents: the same"),
    ("flood", "unfair", "beside a flood of 200 requests:\nlongest wait, in fair shares"),
)
OURS, OTHERS, BOUNDS = "#d1495b", "#8d99ae", "#cfd4dc"
COLORS = {"+ hand-over": OURS, "pinned by hand": BOUNDS, "oracle": BOUNDS}


def main(figures: Path, picture: Path) -> None:
    whole = json.loads(figures.read_text())
    told = {one["trace"]: one["policies"] for one in whole["results"] if one["machine"] == MACHINE}
    matplotlib: Any = import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(13, 3.4), layout="constrained")
    for place, (panel, (trace, key, title)) in enumerate(zip(panels, PANELS, strict=True)):
        _draw(panel, {name: own[key] for name, own in told[trace].items()}, title, named=place == 0)
    figure.supxlabel(f"simulated; less is better; {MACHINE}, seed {whole['seed']}", fontsize=8, color="#555")
    figure.savefig(picture, dpi=144)


def _draw(panel: Any, values: dict[str, float], title: str, *, named: bool) -> None:
    bars = panel.barh(list(values), list(values.values()), color=[COLORS.get(name, OTHERS) for name in values])
    panel.bar_label(bars, [f"{value:.2g}" if value < 10 else f"{value:.0f}" for value in values.values()], padding=3)
    panel.invert_yaxis()
    panel.set_xlim(0, max(values.values()) * 1.25)  # from 0: a bar is as long as its value
    panel.set_title(title, fontsize=9, loc="left")
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(axis="x", which="both", labelsize=7)
    panel.tick_params(axis="y", length=0, labelleft=named)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
