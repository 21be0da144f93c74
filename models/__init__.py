from .bpgan import BPGAN, build_encoder, build_generator, build_model
from .config import QUALITIES, STRIDE, ModelConfig
from .quality import QUALITY_STEPS

__all__ = [
    "BPGAN",
    "QUALITIES",
    "QUALITY_STEPS",
    "STRIDE",
    "ModelConfig",
    "build_encoder",
    "build_generator",
    "build_model",
]
