"""The three graphs as verbs: encode images, embed tokens, read prompts, take a step.

Imports memory, devices and the ground."""
