"""The README's chart, drawn from the benchmark's JSON: `chart.py FIGURES.json PICTURE.png`.

Runs in an environment that has matplotlib (`make bench-peers`), so that nothing else needs it.
"""

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

PANELS = (
    ("us_per_event", 1.0, "CPU per streamed event, µs"),
    ("us_per_request", 1.0, "CPU per short request, µs"),
    ("resident_32", 2**-20, "resident at 32 streams, MiB"),
)
OURS, OTHERS = "#d1495b", "#8d99ae"


def main(figures: Path, picture: Path) -> None:
    whole = json.loads(figures.read_text())
    medians = {name: own for name, own in whole["medians"].items() if "us_per_event" in own}
    matplotlib: Any = import_module("matplotlib")
    matplotlib.use("Agg")
    pyplot: Any = import_module("matplotlib.pyplot")
    figure, panels = pyplot.subplots(1, len(PANELS), figsize=(12, 0.5 + 0.45 * len(medians)), layout="constrained")
    for place, (panel, (key, scale, title)) in enumerate(zip(panels, PANELS, strict=True)):
        _draw(panel, {name: own[key] * scale for name, own in medians.items()}, title, named=place == 0)
    date, cores = whole["machine"]["date"][:10], whole["machine"]["cores"]
    figure.supxlabel(f"less is better; one run, {cores} cores, {date}", fontsize=8, color="#555")
    figure.savefig(picture, dpi=144)


def _draw(panel: Any, values: dict[str, float], title: str, *, named: bool) -> None:
    colors = [OURS if name == "slotproxy" else OTHERS for name in values]
    bars = panel.barh(list(values), list(values.values()), color=colors)
    panel.bar_label(bars, [f"{value:,.3g}" if value < 100 else f"{value:,.0f}" for value in values.values()], padding=3)
    panel.invert_yaxis()
    panel.set_xlim(0, max(values.values()) * 1.25)  # from 0: a bar is as long as its value
    panel.set_title(title, fontsize=10, loc="left")
    panel.spines[["top", "right"]].set_visible(False)
    panel.tick_params(axis="x", which="both", labelsize=7)
    panel.tick_params(axis="y", length=0, labelleft=named)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
