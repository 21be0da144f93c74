"""Validation: true quantization on whole pictures, by the averaged weights."""

import math

import numpy as np
import torch

from data.dataset import PictureSet
from models import losses
from models.config import QUALITIES
from utils.codec.tiling import pad_to_stride
from utils.search.objectives import MS_SSIM_WEIGHT

from .distortion import trained_distortion
from .networks import Networks

VALIDATED_QUALITIES = range(1, QUALITIES + 1)
SHOWN_QUALITY = 3


@torch.no_grad()
def validate(
    networks: Networks, generator: torch.nn.Module, pictures: PictureSet
) -> tuple[dict[str, float], torch.Tensor]:
    """-> ({"val_loss_Q": rate + distortion as in training, "val_bpp_Q": estimated bits per picture sample, "val_psnr_Q":
    weighted as in training, dB, and of models that are trained for it "val_ms_ssim_Q"}, and the last picture beside what
    quality SHOWN_QUALITY makes of it (C, H, 2 W) in [-1, 1])."""
    model, kind, row, shown = networks.average, pictures.kind, {}, None
    distortion_of = trained_distortion(networks.config, kind)
    for q in VALIDATED_QUALITIES:
        quality_row = torch.tensor([q - 1], device=networks.device)
        loss, bpp, psnr, distortions = [], [], [], []
        for index in range(len(pictures)):
            picture = pictures.picture(index)[None].to(networks.device)
            with networks.autocast():
                symbols = model.codebook.quantize(model.analyze(pad_to_stride(picture), quality_row))
                bits = model.rate(symbols.float(), quality_row)
                x_hat = model.generate(model.codebook.dequantize(symbols), quality_row, generator).clamp(-1, 1)
            x_hat = x_hat[..., : picture.shape[-2], : picture.shape[-1]]
            mse = losses.squared_error(picture, x_hat, kind.weights(picture))
            bpp.append(float(bits) / (picture.shape[-2] * picture.shape[-1]))
            distortions.append(float(distortion_of(picture, x_hat)))
            loss.append(bpp[-1] + networks.config.lmbda(q) * 255**2 * distortions[-1])
            psnr.append(-10 * math.log10(max(float(mse), 1e-10)))
        row[f"val_loss_{q}"] = float(np.mean(loss))
        row[f"val_bpp_{q}"], row[f"val_psnr_{q}"] = float(np.mean(bpp)), float(np.mean(psnr))
        if networks.config.objective == "ms_ssim":
            row[f"val_ms_ssim_{q}"] = 1 - float(np.mean(distortions)) / MS_SSIM_WEIGHT
        if q == SHOWN_QUALITY:
            shown = torch.cat([picture, x_hat], dim=-1)[0]
    return row, shown
