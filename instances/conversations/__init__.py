"""What engines know of conversations, saved for whichever of them goes on with one.

`store` decides which saved conversations there are, and which one goes when there is no room; `files` is the folder
they lie in, which engines write and read themselves, `disk` what the file system says, by named outcomes. `engine_kv`
asks an engine to save or to restore; `proof` finds out at the start whether a restored conversation is worth anything
in this engine, and remembers it. Engines that keep files by themselves are given each other's by `hard_links`.
"""
