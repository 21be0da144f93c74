"""Encoder, generator, discriminator, quantizer, entropy model, and their sizes.

Nothing is imported here, so that the sizes (`models.config`) are available without PyTorch.
"""
