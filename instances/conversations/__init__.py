"""What engines know of conversations, and which of them goes on with one.

`index` knows the conversations and finds those that begin like a prompt; `holdings` what each engine and the store have
of them, `figures` what work costs here. `affinity` is the policy that follows from these: where a turn is served at the
least expense, and what has to be saved or restored for it. `turns` is its asyncio shell, `savings` that of the store.

`store` decides which saved conversations there are, and which one goes when there is no room; `files` is the folder
they lie in, which engines write and read themselves, `disk` what the file system says, by named outcomes. `engine_kv`
asks an engine to save or to restore; `proof` finds out at the start whether a restored conversation is worth anything
in this engine, and remembers it. Engines that keep files by themselves are given each other's by `hard_links`.
"""
