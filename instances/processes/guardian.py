"""A process that outlives the proxy by a moment to end the engines it leaves behind, however it dies.

A shell, because it has to be there for as long as the proxy and a shell takes 1 MB; POSIX calls only, because macOS has
no signal on a parent's death. It reads from a pipe which engines are alive. When the proxy is gone, `kill -9` included,
the pipe ends, and it ends their process groups: TERM, so that memory which a GPU holds is given back in order, and KILL
after a second for those that are still there.
"""

import asyncio
import contextlib
import logging
import os
import subprocess

from slotproxy.instances.processes import child as children

logger = logging.getLogger(__name__)

SHELL = "/bin/sh"
GONE = 2.0  # seconds the shell may take to end once nobody writes to it
SCRIPT = r"""
trap '' HUP INT QUIT TERM
groups=' '
while read -r sign group; do
    case $sign in
    +) groups="$groups$group " ;;
    -) case $groups in *" $group "*) groups="${groups%% $group *} ${groups#* $group }" ;; esac ;;
    esac
done
alive() {
    for group in $groups; do
        if kill -s 0 -- "-$group" 2>/dev/null; then return 0; fi
    done
    return 1
}
for group in $groups; do kill -s TERM -- "-$group" 2>/dev/null; done
tenths=0
while alive && [ $tenths -lt 10 ]; do
    sleep 0.1
    tenths=$((tenths + 1))
done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
"""


class Guardian:
    """Watches process groups between `watch` and `forget`. One per proxy; a context manager."""

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._writer = -1
        self._ended: asyncio.Future[int] | None = None  # of the shell that runs now
        self.pid = 0

    async def __aenter__(self) -> "Guardian":
        self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let the shell go; what it still watches it ends."""
        ended, self._ended = self._ended, None
        self._close()
        if ended is not None:
            await asyncio.wait({ended}, timeout=GONE)

    def watch(self, group: int) -> None:
        """End the process group `group` should this process die."""
        self._groups.add(group)
        self._tell(f"+ {group}\n")

    def forget(self, group: int) -> None:
        """It is gone: its number may become somebody else's."""
        self._groups.discard(group)
        self._tell(f"- {group}\n")

    def _start(self) -> None:
        """Never raises: engines are served without a guardian rather than not at all."""
        reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        try:
            command = [SHELL, "-c", SCRIPT, "slotproxy-guardian"]
            path = {"PATH": os.defpath}
            child = children.start(command, env=path, cwd="/", stdin=reader, output=subprocess.DEVNULL)
        except OSError as error:
            self._close()
            logger.warning("no guardian (%s): engines may outlive a proxy that is killed", error.strerror)
            return
        finally:
            os.close(reader)
        self.pid = child.pid
        self._ended = children.exit_of(child)
        self._ended.add_done_callback(self._revive)
        for group in self._groups:
            self._tell(f"+ {group}\n")

    def _revive(self, ended: "asyncio.Future[int]") -> None:
        if ended is self._ended:  # nobody wanted it to end
            logger.warning("the guardian (process %d) is gone; starting another", self.pid)
            self._close()
            self._start()

    def _tell(self, line: str) -> None:
        with contextlib.suppress(OSError):  # it is dead: `_revive` tells the next one
            if self._writer >= 0:
                os.write(self._writer, line.encode())

    def _close(self) -> None:
        writer, self._writer = self._writer, -1
        if writer >= 0:
            os.close(writer)
