"""`--upstream`: servers that run elsewhere, never started or stopped, polled, and asked no more than they allow.

`endpoint` makes an `Upstream` of what the user said, `health` says what one look found, `ratelimits` reads what an API
says of its limits, `pace` decides how many requests at a time follow from that. `remote` does it all for one server,
and has the roster of them.
Into the wing come answers that requests got (`answered`, `failed`); out of it go slots, offered to `slots` and taken
back, and a `Member` for the snapshot.
"""
