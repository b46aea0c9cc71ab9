"""One engine from spawn to exit, and the fleet of them.

`engine` is one running process with its port, lock and directory; what its log says is read by `log_patterns`, what it
is asked over HTTP is in `probe`. `instance` runs one engine after another: it offers the slot, restarts after
`backoff`, and steps through the states of `lifecycle` by its `status`. `fleet` adds, removes and restarts instances
while the others serve; `watchdog` finds engines that hang.
Into the wing come orders (add, remove, restart, drain); out of it go slots, offered to `slots`, one `Transition` for
every step, and a `Member` for the snapshot.
"""
