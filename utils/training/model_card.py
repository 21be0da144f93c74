"""The model card beside a checkpoint: what it was trained on, how long, how it came along.

python -m utils.training.model_card checkpoints/image.safetensors
"""

import sys
from pathlib import Path

from models.complexity import multiply_adds
from utils.codec.checkpoint import Checkpoint, load_checkpoint
from utils.codec.fingerprint import CHECKPOINTS
from utils.files import replacing

SOURCES_FILE = "LICENSES.txt"  # in a folder of training files: a line for each source, comments begin with #


def model_card(checkpoint: Checkpoint, name: str, links: bool = False) -> str:
    """Markdown, from the checkpoint's own metadata alone; `links` to the pages on the repository's own checkpoints."""
    info, config = checkpoint.info, checkpoint.config
    parameters = sum(t.numel() for t in checkpoint.model.values()) + sum(
        a.size for a in checkpoint.tables.get("network", {}).values()
    )
    lines = [
        f"# {name}",
        "",
        f"Encoder, generator, codebook and entropy tables for {config.signal}, trained by this repository's `train.py`.",
        "",
        "| | |",
        "|---|---|",
        *(f"| command | `{command}` |" for command in commands(info) or ["unknown"]),
        f"| data | {info.get('files', '?')} files: {info.get('data', 'see the command')} |",
        *(f"| source | {source.replace('|', '/')} |" for source in info.get("sources", [])),
        f"| training | {info.get('minutes', '?')} minutes, {info.get('steps', '?')} steps, on {info.get('device', '?')} |",
        *([f"| perceptual loss | {info['perceptual_loss']} |"] if "perceptual_loss" in info else []),
        f"| parameters | {parameters / 1e6:.1f} million"
        + (", and a second (realistic) generator" if checkpoint.realistic else "")
        + " |",
        *(["| trained for | MS-SSIM |"] if config.objective == "ms_ssim" else []),
        f"| qualities | 1 to 8: lmbda {config.lmbda_low:g} to {config.lmbda_high:g} |",
        "| multiply-adds per picture sample | "
        + ", ".join(f"{name} {cost / 1000:.1f}k" for name, cost in multiply_adds(config).items())
        + " |",
        f"| default entropy coder | {checkpoint.default_coder} |",
        f"| fingerprint | `{checkpoint.fingerprint.hex()}` |",
        "",
        *(
            [
                "[Figures, curves and comparisons](../docs/results.md), [how the training went](../docs/training.md).",
                "",
            ]
            if links
            else []
        ),
    ]
    rows = info.get("validation", [])
    if rows:
        qualities = sorted(int(key.rsplit("_", 1)[1]) for key in rows[0] if key.startswith("val_bpp_"))
        of_ms_ssim = config.objective == "ms_ssim"
        score, digits = ("ms_ssim", 4) if of_ms_ssim else ("psnr", 2)
        lines += [
            "Validation: estimated bits per picture sample / "
            + ("MS-SSIM" if of_ms_ssim else "PSNR (dB) of the picture, its errors weighted as in training")
            + ", true quantization, no search, whole pictures.",
            "",
            "| minutes | stage | steps | " + " | ".join(f"quality {q}" for q in qualities) + " |",
            "|---" * (3 + len(qualities)) + "|",
        ]
        keep = max(1, len(rows) // 12)
        for row in rows[:-1:keep] + rows[-1:]:
            cells = " | ".join(f"{row[f'val_bpp_{q}']:.3f} / {row[f'val_{score}_{q}']:.{digits}f}" for q in qualities)
            lines.append(f"| {row['minutes']:.0f} | {row['stage']} | {row['step']} | {cells} |")
    return "\n".join(lines) + "\n"


def commands(info: dict) -> list[str]:
    """Of the runs that a checkpoint's weights went through, in their order."""
    return info["commands"] if "commands" in info else [info["command"]] if "command" in info else []


def joined_info(earlier: dict, later: dict) -> dict:
    """How both came about, one after the other."""
    minutes, steps = earlier.get("minutes", 0), earlier.get("steps", 0)
    rows = [
        {**row, "minutes": round(row["minutes"] + minutes, 1), "step": row["step"] + steps}
        for row in later.get("validation", [])
    ]
    both = {name: value for name, value in {**earlier, **later}.items() if name != "command"}
    return {
        **both,
        "commands": commands(earlier) + commands(later),
        "sources": list(dict.fromkeys(earlier.get("sources", []) + later.get("sources", []))),
        "minutes": round(minutes + later.get("minutes", 0), 1),
        "steps": steps + later.get("steps", 0),
        "validation": earlier.get("validation", []) + rows,
    }


def sources_of(roots: list[Path]) -> list[str]:
    """The sources and licenses of training files: the lines of LICENSES.txt in each folder that has one."""
    lines = [
        line.strip()
        for root in roots
        if (Path(root) / SOURCES_FILE).is_file()
        for line in (Path(root) / SOURCES_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    ]
    return list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


def write_model_card(path: Path) -> Path:
    """Write the card of a checkpoint file beside it; -> its path."""
    card = path.with_suffix(".md")
    text = model_card(load_checkpoint(path), path.stem, links=path.resolve().parent == CHECKPOINTS)
    with replacing(card) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return card


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        print(write_model_card(Path(argument)))
