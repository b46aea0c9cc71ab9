"""The supply side: engine processes and the slots they offer. It knows of no client's request and imports no proxy.

From the top: `supervisor` wires everything, `operator` carries out what somebody asks of it, `aftercare` sees to what
requests leave behind, `readiness` judges whether requests can be served at all.
Wings, each may import those below it: `forecast` (what would run here), `scaling` (`--instances auto`: one more, one
less, and why), `remotes` (`--upstream`), `conversations` (what engines have computed, saved for each other), `running`
(one engine from spawn to exit, and the fleet of them), `profiles` (engines as TOML, and their command lines); then,
side by side, `slots` (the queue and the leases), `processes` (children and files of the operating system), `memory`
(readers) and `models` (what model files say).
Every wing may use the words, which are frozen values: `decisions`, `errors`, `failures`, `lifecycle`, `readings`,
`settings`, `snapshot`, `upstream`, `wording`.
"""
