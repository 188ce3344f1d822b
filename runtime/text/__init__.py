"""Prompt, ids and text: image tags, chat templates and their limits, the tokenizer and its rules, text that grows by tokens.

Imports the ground only."""
