"""Where the graphs run: names of devices, the providers and libraries behind them, what a GPU is told, and the sessions.

Imports the ground and outside only."""
