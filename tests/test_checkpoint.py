"""Checkpoints: what is saved comes back, whatever is wrong is one clear line, fingerprints."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from conftest import tiny_checkpoint
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.codec import load_codec
from utils.decoder import load_decoder


def parts(path) -> tuple[dict, dict]:
    """All tensors and all metadata of a file."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())


@pytest.fixture
def rewrite(tiny_checkpoints, tmp_path):
    """Write a checkpoint with some tensors or metadata changed (None: removed); -> its path."""
    def write(tensors=None, metadata=None, source="image"):
        all_tensors, all_metadata = parts(tiny_checkpoints[source])
        for have, changes in ((all_tensors, tensors), (all_metadata, metadata)):
            have.update(changes or {})
            for name in [name for name, value in have.items() if value is None]:
                del have[name]
        save_file(all_tensors, tmp_path / "changed.safetensors", all_metadata)
        return tmp_path / "changed.safetensors"
    return write


def refused(path, match):
    """Sender and receiver both refuse it, in one line."""
    for load in (load_codec, load_decoder):
        with pytest.raises(ValueError, match=match) as caught:
            load(path)
        assert "\n" not in str(caught.value)


# -- there and back ---------------------------------------------------------------------------------


def test_round_trip(tmp_path):
    made = tiny_checkpoint("speech")
    save_checkpoint(tmp_path / "a.safetensors", made)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert loaded.config == made.config and loaded.signal_settings == made.signal_settings
    assert loaded.default_coder == made.default_coder and loaded.info == made.info
    assert set(loaded.model) == {n for n in made.model if not n.startswith("context.")}
    for name, tensor in loaded.model.items():
        exact = name.startswith(("gains.", "codebook."))
        expected = made.model[name] if exact else made.model[name].half().float()
        assert torch.equal(tensor, expected), name
    for name, tensor in loaded.realistic.items():
        assert torch.equal(tensor, made.realistic[name].half().float())
    for coder, arrays in made.tables.items():
        for name, array in arrays.items():
            again = loaded.tables[coder][name]
            assert again.dtype == np.asarray(array).dtype and np.array_equal(again, array), name
    assert len(loaded.fingerprint) == 4


def test_saving_again_keeps_bytes_and_fingerprint(tiny_checkpoints, tmp_path):
    loaded = load_checkpoint(tiny_checkpoints["image"])
    save_checkpoint(tmp_path / "again.safetensors", loaded)
    assert load_checkpoint(tmp_path / "again.safetensors").fingerprint == loaded.fingerprint


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    made = tiny_checkpoint("image")
    save_checkpoint(path, made)
    before = path.read_bytes()
    def half(path, data):
        with open(path, "wb") as file:
            file.write(data[:len(data) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, made)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_receiver_needs_nothing_of_the_encoder(rewrite, tiny_checkpoints):
    tensors, _ = parts(tiny_checkpoints["image"])
    path = rewrite({name: None for name in tensors if name.startswith("model.encoder.")})
    assert load_decoder(path).model.encoder is None
    with pytest.raises(ValueError, match="encoder"):
        load_codec(path)


# -- strictness -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, match", [
    ("model.generator.in16.weight", "generator.in16.weight"),
    ("model.gains.log_inverse", "gains.log_inverse"),
    ("model.codebook.centers", "codebook.centers"),
    ("tables.context.second", "second"),
    ("tables.huffman.order", "huffman"),
    ("realistic.out4.bias", "realistic generator.*out4.bias"),
])
def test_a_missing_tensor(rewrite, name, match):
    refused(rewrite({name: None}), match)


@pytest.mark.parametrize("name, match", [
    ("model.generator.surplus", "surplus"),
    ("model.surplus", "surplus"),
    ("tables.context.surplus", "surplus"),
    ("tables.huffman.surplus", "surplus"),
    ("realistic.surplus", "surplus"),
    ("optimizer.surplus", "unknown tensor 'optimizer.surplus'"),
])
def test_a_tensor_too_many(rewrite, name, match):
    refused(rewrite({name: torch.zeros(3)}), match)


@pytest.mark.parametrize("name, match", [
    ("model.generator.in16.weight", "generator.in16.weight"),
    ("model.codebook.centers", "codebook.centers"),
    ("tables.context.first", "first"),
    ("realistic.in16.weight", "realistic generator.*in16.weight"),
])
def test_a_wrong_shape(rewrite, tiny_checkpoints, name, match):
    tensors, _ = parts(tiny_checkpoints["image"])
    refused(rewrite({name: tensors[name][:-1].clone()}), match)


def test_tables_of_a_coder_are_needed(rewrite, tiny_checkpoints):
    tensors, _ = parts(tiny_checkpoints["image"])
    refused(rewrite({name: None for name in tensors if name.startswith("tables.context.")}), "context")
    refused(rewrite(metadata={"default_coder": json.dumps("arithmetic")}), "default coder 'arithmetic'")


def test_tables_that_do_not_add_up(rewrite, tiny_checkpoints):
    tensors, _ = parts(tiny_checkpoints["image"])
    order = tensors["tables.huffman.order"].clone()
    order[0] = order[1]
    refused(rewrite({"tables.huffman.order": order}), "permutation")


@pytest.mark.parametrize("name, value, match", [
    ("format", "2", "format 2, this version reads 1"),
    ("format", None, "format"),
    ("config", None, "config"),
    ("signal", None, "signal"),
    ("config", "{}", "another model's settings"),
    ("config", "not json", "not one of BPGAN's"),
    ("config", "3", "not one of BPGAN's"),
    ("info", None, "info"),
])
def test_metadata_that_is_wrong(rewrite, name, value, match):
    refused(rewrite(metadata={name: value}), match)


@pytest.mark.parametrize("change, match", [
    ({"signal": "smell"}, "smell"),
    ({"context_groups": [4, 4]}, "context_groups"),
    ({"generator_widths": [16, 16, 24]}, "does not fit its own config"),
    ({"surplus": 1}, "surplus"),
])
def test_a_config_that_does_not_fit(rewrite, tiny_checkpoints, change, match):
    config = json.loads(parts(tiny_checkpoints["image"])[1]["config"])
    refused(rewrite(metadata={"config": json.dumps({**config, **change})}), match)


def test_picture_settings_that_do_not_exist(rewrite):
    refused(rewrite(metadata={"signal": json.dumps({"smell": 3})}), "image, or its settings are unknown")


def test_files_that_are_no_checkpoints(tiny_checkpoints, tmp_path):
    refused(tmp_path / "none.safetensors", "does not exist.*--checkpoint")
    refused(tmp_path, "does not exist|folder")
    data = tiny_checkpoints["image"].read_bytes()
    for name, content in (("empty", b""), ("text", b"hello\n" * 9), ("cut", data[:len(data) // 2]),
                          ("short", data[:-1]), ("header", data[:100]), ("long", data + b"\0")):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        refused(path, f"{name}.safetensors is damaged or not a safetensors file")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors", {"format": "pt"})
    refused(tmp_path / "other.safetensors", "other.safetensors is not one of BPGAN's")
    save_file({"weight": torch.zeros(2)}, tmp_path / "bare.safetensors")
    refused(tmp_path / "bare.safetensors", "bare.safetensors is not one of BPGAN's")


# -- fingerprint -------------------------------------------------------------------------------------


def test_fingerprint_covers_every_tensor_but_the_realistic(rewrite, tiny_checkpoints):
    """A realistic generator that comes later leaves the files that exist valid."""
    tensors, _ = parts(tiny_checkpoints["image"])
    base = load_checkpoint(tiny_checkpoints["image"]).fingerprint
    seen, expected = {base}, 1
    for name, tensor in tensors.items():
        if tensor.numel() == 0:
            continue
        changed = tensor.numpy().copy()
        np.atleast_1d(changed).view(np.uint8).reshape(-1)[-1] ^= 1
        changed = torch.from_numpy(changed)
        seen.add(load_checkpoint(rewrite({name: changed})).fingerprint)
        expected += not name.startswith("realistic.")
    assert len(seen) == expected
    assert load_checkpoint(tiny_checkpoints["image_faithful"]).fingerprint == base


def test_fingerprint_covers_settings_and_not_remarks(rewrite, tiny_checkpoints):
    base = load_checkpoint(tiny_checkpoints["speech"])
    with_remark = load_checkpoint(rewrite(metadata={"info": json.dumps({"trained": "longer"})}, source="speech"))
    assert with_remark.fingerprint == base.fingerprint and with_remark.info == {"trained": "longer"}
    config = {**base.config.to_dict(), "lmbda_low": 0.5}
    settings = {**base.signal_settings, "floor_db": base.signal_settings["floor_db"] + 1}
    others = {load_checkpoint(rewrite(metadata={name: json.dumps(value)}, source="speech")).fingerprint
              for name, value in (("config", config), ("signal", settings))}
    assert len(others | {base.fingerprint}) == 3


def test_fingerprint_of_a_realistic_generator(tmp_path):
    made = tiny_checkpoint("image")
    save_checkpoint(tmp_path / "with.safetensors", made)
    save_checkpoint(tmp_path / "without.safetensors", dataclasses.replace(made, realistic=None))
    with_one, without = (load_checkpoint(tmp_path / f"{n}.safetensors") for n in ("with", "without"))
    assert with_one.fingerprint == without.fingerprint and without.realistic is None
