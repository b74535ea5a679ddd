"""A step on a cluster that need not be there, event by event.

`programs` says what each rank does under a plan, a recording (`recording_file`) what it did, and
`program_check` whether the ranks go together. `simulate` starts the engine in `clockwork`, which
keeps its messages and sums in `clock_parts`; `collectives` and `gather_messages` say what those
are made of. `intervals` has what comes out.
"""
