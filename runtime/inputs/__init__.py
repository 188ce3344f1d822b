"""What a caller writes becomes a Sample: prompts, messages, images and arrays in every form that is taken, and their checks.

Imports images, text and the ground."""
