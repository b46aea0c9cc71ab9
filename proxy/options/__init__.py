"""Every option, declared once: the command line, the environment, the file, --help and docs/options.md follow from it.

`config` has them all, as the fields of `Settings`; `option` says what an option is, `values` how one is written.
`sources` reads the command line, the environment and the file, in that order; `commandline` has the commands and their
help. `key_file` reads keys and their labels. `reload` says what of settings that were read again can take effect while
the proxy runs.
Into the wing come a command line and an environment; out of it goes an `Invocation` with its `Settings`, or a
ConfigurationError of one sentence.
"""
