"""The commands that show something and end: one module for each, loaded only when it is asked for.

`plan` shows what would run on this machine, and why; `engines` lists the profiles, or shows one with its exact command
line. `terminal` prints tables that fit a terminal, plain lines everywhere else, and JSON.
Into the wing come `Settings` and a `Forecast`, a `Profile` or a `Launch` of the supply side; out of it go text and an
exit code. Nothing is started.
"""
