"""Minutes of calls to several servers under faults of every kind; then everything is compared with what was promised.

`python -m tests.soak --minutes 10 --seed 1 [--trio] [--only NAME ...] [--callers N] [--sabotage KIND]`, on Linux.

What is promised, and what decides whether it was kept:

- **Every call has an outcome, and it is true.** Each call has a key of its own. What its caller was told is compared
  with the journal that its server wrote (it survives the server's death): how often the key was taken and executed. The
  table in `tests/promises.py` says what is true.
- **No repeatable call is lost.** The policies here give a call more time than any outage takes, so a repeatable call
  that ends in anything but its own answer is lost, unless its caller cancelled it.
- **Nothing that must be done once is done twice**, or taken twice, and nothing that ran is told not to have run.
- **What was subscribed to is subscribed to.** At the quiet points each server holds what its watchers and its user
  want, and nothing else. Every watcher has read the newest version of each resource it watches, without another change:
  none was missed without a word.
- **Nothing grows.** At the quiet points (after the first minute and at the end) the faults are lifted, the calls under
  way are finished and none is begun: then there are no more tasks, descriptors and children than at the first, and at
  most 1.1 times the memory (in runs of two minutes or more). When all clients are closed, nothing is left of them.
- **Nothing is logged as an error** by this library or the event loop, and no exception other than an `MCPError` gets
  out.

A run follows from its seed: the faults and their times, what each caller calls and when, and the fate of each key. What
the operating system makes of it does not, so a failure may need more than one run to show again. Faults happen at
two places: a schedule kills, freezes and cuts whole servers; and a key may bring its own fate with it (`fate` in
`tests/servers/counting_server.py`).
"""
