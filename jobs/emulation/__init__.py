"""An emulated cluster: devices that are Linux namespaces on one machine.

`options` reads the command line, `pace` decides how fast devices and links run, `groups`
keeps control groups, `cluster` makes devices and links, `launch` starts MPI on them,
`cleaner` removes everything whatever has happened.
"""


class Refusal(Exception):
    """What was asked cannot be done here; its text is one line for the user."""
