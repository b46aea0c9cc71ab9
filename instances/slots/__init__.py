"""The queue, the leases, and who gets which slot.

`claim` is what a request says of itself: who asks, for which conversation, with what prompt. `pool` is the pure core:
members with slots, tickets in a queue, grants; `routing` picks among members with a free slot. `line` says who is next,
fair between those who ask; each is a `principal` whose service `levels` keeps. `service_rate` says how long a turn will
take to come. `beside` counts what engines answer beside their slots.
`leases` is its asyncio shell, and the one thing that the proxy's side of a request touches here: `take` or `wait` for a
`Lease` (`lease`), then `release` or `abandon` it. What requests learn of an upstream goes to the `UpstreamOwner`, which
is `aftercare`.
"""
