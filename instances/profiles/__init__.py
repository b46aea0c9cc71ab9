"""Engines as TOML, and the exact command line of an instance.

`catalog` lists and loads the profiles, which lie beside it, and the user's own; `profile` is what one says. `selection`
says which engine fits a model and how its program is run, `detection` what of it is installed here, `context` how many
tokens an instance is told, `own_arguments` what a user may not add, `named_files` which files those arguments need,
`modes` what an engine for embeddings is asked instead; `launch` makes all of that one `Launch`, of which `fingerprint`
tells whether another one is the same engine.
`embedded` is no part of the proxy but an engine: a program that is started like the others. Its command line is
llama-server's: `llama_arguments` reads it by the table in `llama_options`, whose rows `llama_option` makes of the
readers in `llama_values`.
Out of the wing go `Profile` and `Launch`: values. It reads files and asks programs for --help and --version.
"""
