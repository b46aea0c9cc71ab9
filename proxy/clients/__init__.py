"""Connections of clients: what they send, how much and for how long, and who may ask at all.

`listening` opens the socket, `front` makes a `connection` of every client and bounds their number, times and bodies.
`connection` gives the bytes to `head` (httptools judges a head, then it is taken apart), to `chunked` (a chunked body),
or counts them. `bodies` says what is wanted of a body and asks `json_body`, which reads a large one in steps;
`json_renaming` puts another model into it. Both walk along a `json_skeleton`. `access` judges keys, Host and Origin.
`claims` reads from head and body what a request says of itself to whoever gives out slots: its session, its priority,
and by `prompt_blocks` how its prompt begins.
Out of the wing go a `RequestHead` and a body, to an exchange that the `Handler` makes for them; into it come what the
client is to be sent, and whether its connection is kept. Nothing here knows of engines or slots.
"""
