"""The HTTP edge: take a client's request, lease a slot for it, send it to the engine, stream the answer back.

From the top: `__main__` makes an exit code of a command line, `server` wires everything and stops it in order.
Wings, each may import those below it: `commands` (`slotproxy plan` and `engines`), `exchange` (one request from its
head to its account), `clients` (connections of clients: what they send, and who may ask); then, side by side, `engines`
(the engine's side of the wire) and `operator` (the proxy's own pages); `options` (every option, declared once),
`accounts` (metrics, log, and what they are made of). Every wing may use `headers` (which fields pass) and `errors`
(refusals).
From `slotproxy.instances` come a `Lease`, which names an `Upstream`, a `Snapshot`, and an operator's operations. No
pid is known here, and no request there.
"""
