"""What stays between calls: buffers on the host and on GPUs, keys and values, image features, prompts that were read.

Imports the ground and the CUDA version from devices."""
