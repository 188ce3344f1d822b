"""One call from its samples to its answers: the loop, what has been answered so far, streams, scores.

Imports engine, memory, sampling, inputs, text and the ground."""
