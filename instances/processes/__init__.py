"""Children and files of the operating system.

`process` is one engine process, started as a `child` in a session of its own and ended as a group; `guardian` ends the
groups of a proxy that was killed, `escaped` finds what left its group, `records` ends what an earlier proxy left.
`enginelog` keeps an engine's output, `locks` are lock files, `ports` finds free ports and says whose a port is,
`statedir` takes the state directory for one proxy, `results` keeps there what was found out.
Nothing here knows of HTTP, profiles or models: commands, paths and signals come in, exits and lines of output go out.
"""
