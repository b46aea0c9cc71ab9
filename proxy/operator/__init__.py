"""The proxy's own pages, and what an operator may ask of the running instances: an `aiohttp.web` application.

`application` puts it together: `pages` (health, readiness, slots, models, metrics), `instances` (look at them, add,
take out, restart, read a log), `events` (the state as server-sent events), `evaluation` (how many slots are sensible).
`document` has the types of the state document and so its JSON Schema; `state` makes one of a snapshot. `answers` makes
a response of a value or of whatever went wrong. `paths` says which requests are answered here, and which of them only
an operator may make; `stopping` ends the streams of events.

What crosses the border: a `Snapshot` and an `Operations` come in from the supply side, `Stopping` from the composition
root. `exchange.gate` asks `paths`, and checks keys, Host, Origin and the rights of an operator before a request comes
here; requests come through the sockets that `serving` hands out, as they go to an engine. Nothing here knows who asks.
"""
