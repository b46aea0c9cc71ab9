"""The HTTP edge: accept a request, lease a slot, stream the answer back.

`server` builds the parts and owns the signals; `routes` answers the proxy's own paths; `forward` takes one request to
an engine and back through `relay`; `meter` counts what passes. Engines and their processes are `slotproxy.instances`.
"""
