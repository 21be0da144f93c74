"""Encoder, generator, discriminator, quantizer, entropy model, and their sizes.

Nothing is imported here, so that the sizes (`models.config`) can be had without PyTorch.
"""
