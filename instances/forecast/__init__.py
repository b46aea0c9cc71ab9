"""What would run here, and why: nothing is started, only looked at.

`plan` is asked by the command `slotproxy plan`: from settings and a model it makes a `Forecast`, with an `Estimate` by
the file alone beside what an earlier start measured. `parallel_slots` says how many requests at a time are sensible for
one context; the command line, the HTTP endpoint and the plan all ask there.
Out of the wing go `Forecast`, `Estimate` and `ParallelSlots`: values. It reads the machine and the state directory.
"""
