"""What verification asks of IDEFICS."""

from ..comparison import Comparison
from . import attributes, layered, layers, whole

IDEFICS = Comparison(
    pieces_of_inputs=layers.of_inputs,
    pieces_of_decoder=layers.of_decoder,
    read_prompts=whole.read_prompts,
    modules=attributes.modules,
    features=layered.features,
    logits=layered.logits,
)
