"""The engine's side of the wire: one connection, one request at a time, its answer handed on as it arrives.

`relay` is the connection, an `asyncio.Protocol` over httptools: to an engine, a server elsewhere, or the proxy's own
pages. `idle` keeps connections between two requests. `heads` knows the heads of answers that came before, `chunks` a
segment that is one whole chunk; neither needs the parser again. `sink` is what `relay` tells whoever takes an answer,
`failure` what can go wrong; `observed` looks at the answers of servers whose rate limits are to be kept.
Into the wing come an `Upstream` and the bytes of a request; out of it go calls of a `Sink`, or one `Failure`. Nothing
here knows of clients or leases.
"""
