"""Readers: what processes hold, what the machine has, how short of memory it is.

`machine` is the one to ask: resident memory, wired memory or memory of GPUs, behind one interface. It asks
`process_tree` (engines and their descendants), `linux` (cgroups and pressure), `darwin` (macOS) and `nvidia` (GPUs).
Pids come in, values of `readings` go out. Every call may block: not for the event loop's thread.
"""
