from .bpgan import BPGAN, build_encoder, build_generator, build_model
from .config import QUALITIES, STRIDE, ModelConfig
from .quality import QUALITY_STEPS

__all__ = ["BPGAN", "ModelConfig", "QUALITIES", "QUALITY_STEPS", "STRIDE", "build_encoder", "build_generator",
           "build_model"]
