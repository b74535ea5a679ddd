"""Devices, their speed, and the links between them.

`cluster` is the description as plain data, `cluster_file` its TOML, `generic` stands in where there
is none. `devices` says which ranks share a device, `placement` which tiles should, `wires` how
messages share a link.
"""
