"""What lies outside of this package and may fail there: the hub, other hosts, the packages that are installed.

Imports errors only."""
