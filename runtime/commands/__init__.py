"""The commands that need only the runtime, a file each, and what they share.

Imports everything below; neither cli nor export."""
