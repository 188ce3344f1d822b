"""What is exported: checkpoints, quantised ones, adapters, and their weights in the order in which graphs take them.

Imports models, trace and the ground of export; the ground of the runtime."""
