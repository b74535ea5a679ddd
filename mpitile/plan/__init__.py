"""Plans as plain data, what each tile then does, and what all that takes.

Where to look, and where to change what:

- *What a plan is, and what follows from it*: `plan`, `choose` (by rule), `partition`, `filters`,
  `recomputation`, `pass_order`; who exchanges and adds up what: `gathers`, `traffic`, `slices`,
  `buckets`, `devices`.
- *Memory*: `bytes` adds up what a rank allocates, from `lifetimes` of a pass's buffers laid out by
  `memory`; `group_lives` and `group_bytes` say the same of every group that might be chosen.
- *The cost model*: `cost` has the seconds of one piece of work, of one exchange, of one sum on a
  `cluster` (`cluster_file` reads it, `generic` stands in for it). Bands, efforts, layer classes
  and curves are how it reads measured points. `group_times`, `filter_times`, `gather_times`,
  `sum_times` and `overlap` apply it to every group that might be chosen, `predict` to one plan.
- *The planner's search*: `planner` goes over grids and replicas, `layout` over what may be chosen
  on one of them, `search` finds the best borders of its groups among its `choices`. `request` is
  what goes in and comes out; `explain` and `shortage` say why.
- *The simulator*: `programs` (or a recording) say what each rank does, `simulate` starts the
  engine in `clockwork` with messages on `wires` and sums by `collectives`; `intervals` has what
  comes out.
"""
