"""Predicted seconds: the cost model, shared by planner and simulator.

`cost` has one piece of work, one exchange and one sum on a cluster; `layer_class`, `effort` and
`curve` are how it reads measured points. `group_times`, `filter_times`, `gather_times` and
`sum_times` apply it to every group that might be chosen, by way of `reach` and `exchange_times`;
`predict` applies it to one plan, with what `overlap` hides.
"""
