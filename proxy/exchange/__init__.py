"""One request, from its head to its account: the only wing that knows clients, slots and engines.

`exchange` is one object for each request: it takes a lease, sends, tries again where that is allowed, hands the slot
back and accounts for it. It is an `answer`, too, which writes to the client what the engine says. `forward` makes the
exchanges, holds what they share (idle connections, limits, tasks) and holds them to their deadlines. `attempts` counts
what came of one request so far, `verdict` says what follows from how the latest attempt ended, and `deadlines` when one
has to end. While a client waits for a stream, `pings` tell it so; a `misfit` is an answer that cannot follow them.
Asked on the way: `gate` (who may ask, and does the request go to a page or to an engine), `engine_request` (the bytes
of a head for one upstream), `own_answer` (the bytes of a refusal).
Into the wing come a `RequestHead`, a body, a `Lease`; out of it go bytes both ways and one `Outcome`.
"""
