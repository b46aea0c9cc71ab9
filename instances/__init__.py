"""Engine processes and the slots they offer: start, warm up, measure, lease, drain, stop.

Pure modules decide (`lifecycle`, `pool`, `routing`, `planner`, `backoff`), shells act (`leases`, `instance`,
`supervisor`). Nothing here knows of a client's request; `slotproxy.proxy` does, and imports this package, never the
reverse.
"""
