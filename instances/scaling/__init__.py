"""`--instances auto`: one more, one less, and why.

`governor` says when: it lets `growth` add instances until one more does not fit or is not worth it, and then watches.
`growth` decides by `planner` (does one more fit, was it worth it) and `watermarks` (is memory short, is there room
again), and acts through `scalable`, which `scaled_fleet` is for the real fleet. `memory_monitor` has the readings and
what they add up to; `benchmark` measures the memory of an engine at work and the gain of one more, by `generations` of
our own whose text is in `workload`; `sharing` sees whether instances share their model; `calibration` keeps results.
Out of the wing goes `Governor`, with its decisions; engines are started and ended through `running` only.
"""
