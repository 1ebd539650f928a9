"""Minutes of calls to several servers under faults of every kind, then a comparison with everything that was promised.

`python -m tests.soak --minutes 10 --seed 1 [--trio] [--only NAME ...] [--callers N] [--sabotage KIND]`, on Linux.

The promises, and how they are checked:

- **Every call has a true outcome.** Each call has its own key. The outcome its caller got is compared with the server's
  journal (which survives the server): how often the key was taken and executed. `tests/promises.py` has the table of
  what counts as true.
- **No repeatable call is lost.** The policies here allow a call more time than any outage takes, so a repeatable call
  that ends with anything but its own answer is lost, unless its caller cancelled it.
- **Nothing that must run once runs twice**, or is taken twice, and nothing that ran is reported as not run.
- **Subscriptions survive.** At the quiet points each server holds exactly the subscriptions that its watchers and its
  user want. Every watcher has read the newest version of each resource it watches, without a further change: no change
  was silently missed.
- **Nothing grows.** At the quiet points (after the first minute and at the end) faults are lifted, calls in flight
  finish and none are started. At the second one there are no more tasks, descriptors and children than at the first,
  and at most 1.1 times the memory (in runs of two minutes or more). When all clients are closed, nothing is left.
- **Nothing is logged as an error** by this library or the event loop, and no exception other than an `MCPError`
  escapes.

The seed determines the faults and their times, what each caller calls and when, and the fate of each key. It does not
determine what the operating system does, so reproducing a failure may take more than one run. Faults have two sources:
a schedule kills, freezes and cuts off whole servers, and a key may carry its own fate (`fate` in
`tests/servers/counting_server.py`).
"""
