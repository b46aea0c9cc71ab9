"""What passed by: tokens, times, counters, log lines. Nothing here alters a byte of it.

`meter` reads events, tokens and the end of a stream from the pieces of an answer, `silence` tells whether a stream
brings anything but comments. `outcome` is what became of one request; `metrics` counts it with the `counters`, which
cost next to nothing to touch, and `logs` writes its line through `log_output`, which never waits for a reader.
Into the wing come pieces of answers, one `Outcome` for each request, and a `Snapshot` whenever somebody scrapes. Out of
it go a `Usage`, the text of the page of metrics, and lines on stderr.
"""
