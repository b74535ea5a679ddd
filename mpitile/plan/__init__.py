"""Plans as plain data: grid, replicas, groups, and what each tile then does."""
