"""The proxy's own pages, and what an operator may ask of the running instances: an `aiohttp.web` application.

`application` puts it together: `pages` (health, readiness, slots, models, metrics), `instances` (look at them, add,
take out, restart, read a log), `events` (the state as server-sent events), `evaluation` (how many slots are sensible).
`document` has the types of the state document and so its JSON Schema; `state` makes one of a snapshot. `paths` says
which requests are answered here, and which of them only an operator may make.

What crosses the border: a `Snapshot` and an `Operations` come in from the supply side, `Stopping` from the composition
root. The front asks `paths`, checks keys, Host, Origin and the rights of an operator itself, and reaches the
application through the sockets that `serving` hands out, as it reaches an engine. Nothing here knows who asks.
"""
