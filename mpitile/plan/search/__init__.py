"""The planner: the fastest plan that fits.

`planner` goes over grids and replicas, `layout` over what may be chosen on one of them, `borders`
finds the best borders of its groups among its `choices`, with `group_lives` and `group_bytes`
against a device's memory. `tile_weights` sizes tiles for devices that differ. `request` is what
goes in and comes out; `explain` and `shortage` say why.
"""
