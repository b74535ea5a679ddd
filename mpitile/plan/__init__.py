"""Plans as plain data, what each tile then does, and what all that takes.

In this folder: what a plan is (`plan`; `by_rule` makes one where nothing is weighed), and what
follows from it for every tile (`partition`, `filters`, `gathers`, `traffic`, `recomputation`,
`pass_order`, `tasks`); `recording` has the words for what a rank does in a step. Below it:

- `clusters`: devices, their speed, and the links between them;
- `sums`: who adds up which part of the gradients, and when;
- `memory`: the bytes that a rank allocates;
- `costs`: predicted seconds, of everything that might be chosen and of one plan;
- `search`: the planner;
- `simulation`: a step, event by event.

Each of them imports only from this folder and from those above it, `clusters` from none.
"""
