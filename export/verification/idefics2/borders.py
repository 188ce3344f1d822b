"""Weights of the norms at the borders between Idefics2's layers."""

VISION_NORM, LAST_VISION_NORM = "vision_model.encoder.layers.{}.layer_norm1.weight", "vision_model.post_layernorm.weight"
TEXT_NORM = "text_model.layers.{}.input_layernorm.weight"
