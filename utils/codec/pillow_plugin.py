"""Once this is imported, Image.open and Image.save know .bpgan files, with the weights in checkpoints/."""

import functools
from io import BytesIO

from PIL import Image, ImageFile

from data.images import ImageKind
from data.picture_files import convert_with_metadata

from .bitstream import MAGIC, BitstreamError, read_stream, unpack
from .settings import Settings

PILLOW_NAMES = {"exif": "exif", "icc": "icc_profile"}  # in the `info` of an image


@functools.cache
def _codec(path):
    """Loaded for the first pixels, not for the import."""
    from .codec import load_codec

    return load_codec(path)


class BpganImageFile(ImageFile.ImageFile):
    """An image in a .bpgan file. Raises OSError with one line for damage, another kind or another checkpoint."""

    format, format_description = "BPGAN", "BPGAN compressed image"

    def _open(self):
        from .info import describe, shipped_for

        self._data = read_stream(self.fp)
        try:
            facts = describe(self._data, {})
        except BitstreamError as error:
            raise OSError(str(error)) from None
        if facts["signal"] != "image":
            raise OSError(f"a .bpgan file of {facts['signal']}, not of an image")
        self._checkpoint = shipped_for(facts["fingerprint"], "image")
        try:
            kept = ImageKind().metadata(unpack(self._data)[0].sections)
        except ValueError as error:
            raise OSError(str(error)) from None
        self.info |= {PILLOW_NAMES[name]: value for name, value in kept.items()}
        self._mode = ("L" if "gray" in facts["flags"] else "RGB") + ("A" if "alpha" in facts["sections"] else "")
        self._size = facts["width"], facts["height"]

    def load(self):
        if self._data is not None:
            try:
                pixels = _codec(self._checkpoint).decompress(self._data)
            except ValueError as error:
                raise OSError(str(error)) from None
            if self._exclusive_fp:
                self.fp.close()
            self.fp, self._data = BytesIO(pixels.tobytes()), None
            # A tuple: with a bare mode, Pillow would map the .bpgan file itself for the pixels of some modes.
            self.tile = [ImageFile._Tile("raw", (0, 0, *self.size), 0, (self.mode,))]
        return super().load()


def _save(image, stream, filename):
    from .fingerprint import shipped

    quality, iterations, objective = (image.encoderinfo.get(name) for name in ("quality", "iterations", "objective"))
    settings = Settings.of(iterations=iterations, objective=objective, exact=bool(image.encoderinfo.get("exact")))
    codec, metadata = _codec(shipped("image", objective)), {}
    if image.encoderinfo.get("keep_metadata"):
        image, metadata = convert_with_metadata(image, codec.kind.check_extent)
    stream.write(codec.compress(image, 3 if quality is None else quality, settings, metadata=metadata))


Image.register_open(BpganImageFile.format, BpganImageFile, lambda head: head.startswith(MAGIC))
Image.register_save(BpganImageFile.format, _save)
Image.register_extension(BpganImageFile.format, ".bpgan")
