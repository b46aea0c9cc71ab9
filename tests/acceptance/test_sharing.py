"""N engines cost the model's pages once, and their private part each."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.clients import chat, post
from tests.running import Running, StartProxy, real_engine

MIB = 1 << 20


def costs(proxy: Running) -> tuple[int, int]:
    """PSS and anonymous bytes of all engines together."""
    pss = private = 0
    for pid in proxy.pids():
        fields = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
        pss += int(fields["Pss"].split()[0]) * 1024
        private += int(fields["Anonymous"].split()[0]) * 1024
    return pss, private


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux divides shared pages among their users (PSS)")
async def test_two_engines_cost_one_and_a_private_part(
    start_proxy: StartProxy, demo_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "own.gguf"  # a copy: other tests' engines would share the pages of the demo model itself
    shutil.copyfile(demo_model, model)
    measured = {}
    for count in (1, 2):
        proxy = start_proxy(*real_engine(model, count)).wait_ready(count)
        for _ in range(count):
            assert (await post(proxy.port, chat(max_tokens=16))).status == 200
        measured[count] = costs(proxy)
        assert proxy.stop() == 0
    (one, private), (two, _) = measured[1], measured[2]
    with capsys.disabled():
        limit = one + 1.15 * private
        print(
            f"\nPSS of one engine {one / MIB:.1f} MiB, its private part {private / MIB:.1f} MiB; "
            f"of two {two / MIB:.1f} MiB, at most {limit / MIB:.1f} MiB allowed"
        )
    assert private < one
    assert two <= one + 1.15 * private
