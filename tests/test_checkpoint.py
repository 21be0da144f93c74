"""Checkpoints: what is saved comes back, whatever is wrong is one clear line, fingerprints."""

import dataclasses
import json
import pickle
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from models.config import ADDED, ModelConfig
from tests.helpers.models import tiny_checkpoint
from utils.codec.checkpoint import load_checkpoint, save_checkpoint
from utils.codec.codec import load_codec
from utils.codec.decoder import load_decoder
from utils.training import model_card
from utils.training.model_card import write_model_card


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


def refused(path, match=None, loads=(load_codec, load_decoder)):
    """Sender and receiver both refuse it, in one line."""
    for load in loads:
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


@pytest.mark.slow
def test_saving_again_keeps_bytes_and_fingerprint(tiny_checkpoints, tmp_path):
    loaded = load_checkpoint(tiny_checkpoints["image"])
    save_checkpoint(tmp_path / "again.safetensors", loaded)
    assert load_checkpoint(tmp_path / "again.safetensors").fingerprint == loaded.fingerprint


def test_an_interrupted_save_leaves_the_old_file(tiny_checkpoints, tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    made = load_checkpoint(tiny_checkpoints["image"])
    save_checkpoint(path, made)
    before = path.read_bytes()

    def half(path, data):
        with open(path, "wb") as file:
            file.write(data[: len(data) // 2])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, made)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.slow
def test_a_receiver_needs_nothing_of_the_encoder(rewrite, tiny_checkpoints):
    tensors, _ = parts(tiny_checkpoints["image"])
    path = rewrite({name: None for name in tensors if name.startswith("model.encoder.")})
    assert load_decoder(path).model.encoder is None
    with pytest.raises(ValueError, match="encoder"):
        load_codec(path)


# -- strictness -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, match",
    [
        ("model.generator.in16.weight", "generator.in16.weight"),
        ("model.gains.log_inverse", "gains.log_inverse"),
        ("model.codebook.centers", "codebook.centers"),
        ("tables.network.second", "second"),
        ("tables.context.frequency", "frequency"),
        ("tables.huffman.lengths", "lengths"),
        ("realistic.out4.bias", "realistic generator.*out4.bias"),
    ],
)
def test_a_missing_tensor(rewrite, name, match):
    refused(rewrite({name: None}), match)


@pytest.mark.parametrize(
    "name, match",
    [
        ("model.generator.surplus", "surplus"),
        ("model.surplus", "surplus"),
        ("tables.network.surplus", "surplus"),
        ("tables.context.surplus", "surplus"),
        ("tables.huffman.surplus", "surplus"),
        ("realistic.surplus", "surplus"),
        ("optimizer.surplus", "unknown tensor 'optimizer.surplus'"),
    ],
)
def test_a_tensor_too_many(rewrite, name, match):
    refused(rewrite({name: torch.zeros(3, dtype=torch.int32 if name.startswith("tables") else torch.float32)}), match)


@pytest.mark.parametrize(
    "name, match",
    [
        ("model.generator.in16.weight", "generator.in16.weight"),
        ("model.codebook.centers", "codebook.centers"),
        ("tables.network.first", "first"),
        ("realistic.in16.weight", "realistic generator.*in16.weight"),
    ],
)
def test_a_wrong_shape(rewrite, tiny_checkpoints, name, match):
    tensors, _ = parts(tiny_checkpoints["image"])
    refused(rewrite({name: tensors[name][:-1].clone()}), match)


def test_tables_of_a_coder_are_needed(rewrite, tiny_checkpoints):
    tensors, _ = parts(tiny_checkpoints["image"])
    refused(rewrite({name: None for name in tensors if name.startswith("tables.context.")}), "context")
    refused(rewrite(metadata={"default_coder": json.dumps("arithmetic")}), "default coder 'arithmetic'")


# -- hostile files ----------------------------------------------------------------------------------


def test_a_pickle_is_not_opened(tmp_path, tiny_checkpoints):
    """Nor does a name that PyTorch would take for a pickle change that."""
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self):
            return Path.touch, (trap,)

    for name, write in (
        ("a.safetensors", lambda path: path.write_bytes(pickle.dumps(Trap()))),
        ("a.pt", lambda path: torch.save({"model": Trap()}, path)),
    ):
        write(tmp_path / name)
        refused(tmp_path / name, f"{name} is damaged or not a safetensors file")
    assert not trap.exists()
    pickle.loads((tmp_path / "a.safetensors").read_bytes())
    assert trap.exists()  # it would have worked


def header_of(path, change) -> bytes:
    """A checkpoint's bytes with its safetensors header changed."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[end:]


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [10**6, 10**6]},
        {"shape": [2**62, 4]},
        {"shape": [-1]},
        {"dtype": "F128"},
        {"dtype": "I64"},
        {"data_offsets": [0, 2**60]},
        {"data_offsets": [8, 4]},
    ],
)
def test_a_header_that_lies(tiny_checkpoints, tmp_path, entry):
    path = tmp_path / "lie.safetensors"
    path.write_bytes(header_of(tiny_checkpoints["image"], lambda h: h["model.generator.in16.weight"].update(entry)))
    refused(path, "lie.safetensors is damaged or not a safetensors file")


@pytest.mark.slow
@pytest.mark.parametrize(
    "group",
    [
        "model.generator.",
        "model.encoder.",
        "model.gains.",
        "model.codebook.",
        "realistic.",
        "tables.network.",
        "tables.context.",
        "tables.huffman.",
    ],
)
def test_wrong_types_shapes_and_numbers_in_any_tensor(rewrite, tiny_checkpoints, group):
    """The first tensor of a group and the last: both named, in one line, whatever is wrong."""
    tensors, _ = parts(tiny_checkpoints["image"])
    names = sorted(name for name, tensor in tensors.items() if name.startswith(group) and tensor.numel() > 1)
    for name in {names[0], names[-1]}:
        tensor = tensors[name]
        wrong = [tensor.bool(), tensor.double(), tensor.bfloat16(), tensor[:0].clone(), tensor[None], torch.tensor(1)]
        if tensor.is_floating_point():
            wrong += [tensor.to(torch.int16), torch.full_like(tensor, float("nan")), tensor / 0.0]
        else:
            wrong.append(tensor.float())
        for change in wrong:
            named = [
                name,
                name.partition(".")[2],
                name.split(".")[-1],
                "tables" if group.startswith("tables") else name,
            ]
            refused(
                rewrite({name: change.contiguous()}),
                "|".join(named),
                (load_codec,) if group == "model.encoder." else (load_codec, load_decoder),
            )


@pytest.mark.slow
@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(ModelConfig)])
def test_a_config_of_absurd_numbers(rewrite, tiny_checkpoints, field):
    """Refused before anything of that size is built."""
    config = json.loads(parts(tiny_checkpoints["image"])[1]["config"])
    config = {**ADDED, **config}
    for value in (10**9, -1, 0, 1.5, float("nan"), float("inf"), None, "8", True, [], [10**9] * 3, ["a"], {}, [[1]]):
        listed = isinstance(config[field], list)
        if (field == "latent_rows" and value == 0 and value is not False) or (
            field.startswith("lmbda") and value == 1.5
        ):
            continue
        if value is config[field] or (value is True and isinstance(config[field], bool)):
            continue
        for changed in (value, [value, *config[field][1:]]) if listed else (value,):
            if field.endswith("depths") and changed == [0, *config[field][1:]]:
                continue
            refused(rewrite(metadata={"config": json.dumps({**config, field: changed})}))


@pytest.mark.slow
def test_a_config_larger_than_its_file(rewrite, tiny_checkpoints):
    config = json.loads(parts(tiny_checkpoints["image"])[1]["config"])
    for change in (
        {"context_hidden": 4096},
        {"encoder_widths": [4096] * 3, "encoder_depths": [64] * 3},
        {"generator_widths": [4096] * 3, "generator_depths": [64] * 3},
    ):
        path = rewrite(metadata={"config": json.dumps({**config, **change})})
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        refused(path, "claims", (load_codec,) if "encoder_widths" in change else (load_codec, load_decoder))
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 50_000  # KiB; built, it would be many GB


@pytest.mark.parametrize(
    "change",
    [
        {"n_fft": 2**40, "hop_length": 2**38},
        {"n_fft": 512.0},
        {"n_mels": 64},
        {"n_mels": 10**9},
        {"n_fft": "512"},
        {"sample_rate": 0},
        {"sample_rate": 8000},
        {"hop_length": 0},
        {"floor_db": float("nan")},
        {"floor_db": "80"},
        {"fmax": None},
        {"griffin_lim_iterations": 10**9},
        {"griffin_lim_iterations": -1},
    ],
)
def test_picture_settings_that_are_not_possible(rewrite, tiny_checkpoints, change):
    settings = json.loads(parts(tiny_checkpoints["speech"])[1]["signal"])
    refused(rewrite(metadata={"signal": json.dumps({**settings, **change})}, source="speech"))


@pytest.mark.parametrize("name", ["format", "config", "signal", "default_coder", "info"])
def test_metadata_of_any_kind(rewrite, name):
    for value in ("[" * 100000, "null", "[]", "{", "NaN", '"\\ud800"', "7"):
        refused(rewrite(metadata={name: value}))


def test_a_kind_of_another_number_of_channels(rewrite, tiny_checkpoints):
    config = json.loads(parts(tiny_checkpoints["image"])[1]["config"])
    refused(rewrite(metadata={"config": json.dumps({**config, "signal": "speech"})}), "channels")
    config = json.loads(parts(tiny_checkpoints["speech"])[1]["config"])
    settings = parts(tiny_checkpoints["speech"])[1]["signal"]
    for rows in (4, 16):
        refused(
            rewrite(
                metadata={"config": json.dumps({**config, "latent_rows": rows}), "signal": settings}, source="speech"
            ),
            "latent rows",
        )


@pytest.mark.parametrize(
    "name, value, match",
    [
        ("format", "1", "format 1, this version reads 2"),
        ("format", None, "format"),
        ("config", None, "config"),
        ("signal", None, "signal"),
        ("config", "{}", "another model's settings"),
        ("config", "not json", "not one of BPGAN's"),
        ("config", "3", "not one of BPGAN's"),
        ("info", None, "info"),
    ],
)
def test_metadata_that_is_wrong(rewrite, name, value, match):
    refused(rewrite(metadata={name: value}), match)


@pytest.mark.parametrize(
    "change, match",
    [
        ({"signal": "smell"}, "smell"),
        ({"context_groups": [4, 4]}, "context_groups"),
        ({"generator_widths": [16, 16, 24]}, "does not fit its own config"),
        ({"surplus": 1}, "surplus"),
    ],
)
def test_a_config_that_does_not_fit(rewrite, tiny_checkpoints, change, match):
    config = json.loads(parts(tiny_checkpoints["image"])[1]["config"])
    refused(rewrite(metadata={"config": json.dumps({**config, **change})}), match)


def test_picture_settings_that_do_not_exist(rewrite):
    refused(rewrite(metadata={"signal": json.dumps({"smell": 3})}), "image, or its settings are unknown")


def test_files_that_are_no_checkpoints(tiny_checkpoints, tmp_path):
    refused(tmp_path / "none.safetensors", "does not exist.*--checkpoint")
    refused(tmp_path, "does not exist|folder")
    data = tiny_checkpoints["image"].read_bytes()
    for name, content in (
        ("empty", b""),
        ("text", b"hello\n" * 9),
        ("cut", data[: len(data) // 2]),
        ("short", data[:-1]),
        ("header", data[:100]),
        ("long", data + b"\0"),
    ):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        refused(path, f"{name}.safetensors is damaged or not a safetensors file")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors", {"format": "pt"})
    refused(tmp_path / "other.safetensors", "other.safetensors is not one of BPGAN's")
    save_file({"weight": torch.zeros(2)}, tmp_path / "bare.safetensors")
    refused(tmp_path / "bare.safetensors", "bare.safetensors is not one of BPGAN's")


def test_a_card_links_to_pages_on_the_repository_s_own_checkpoints_alone(tiny_checkpoints, tmp_path, monkeypatch):
    path = tmp_path / "image.safetensors"
    path.write_bytes(tiny_checkpoints["image"].read_bytes())
    card = write_model_card(path).read_text()
    assert load_checkpoint(path).fingerprint.hex() in card and "](" not in card and "\n\n\n" not in card
    monkeypatch.setattr(model_card, "CHECKPOINTS", tmp_path)
    assert "](../docs/training.md)" in write_model_card(path).read_text()


def test_a_card_names_the_sources_of_the_training_files(tiny_checkpoints, tmp_path):
    text = "# a comment\n\nDebian package a 1-1: CC BY 3.0, Ann | Bob\n"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "LICENSES.txt").write_text(text)
    sources = model_card.sources_of([tmp_path / "one", tmp_path / "two", tmp_path])
    assert sources == ["Debian package a 1-1: CC BY 3.0, Ann | Bob"]
    checkpoint = load_checkpoint(tiny_checkpoints["image"])
    checkpoint = dataclasses.replace(checkpoint, info={**checkpoint.info, "sources": sources})
    assert "| source | Debian package a 1-1: CC BY 3.0, Ann / Bob |" in model_card.model_card(checkpoint, "image")


# -- fingerprint -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_fingerprint_covers_every_tensor_that_files_depend_on(rewrite, tiny_checkpoints):
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
        expected += not name.startswith(("realistic.", "discriminator."))
    assert len(seen) == expected
    assert load_checkpoint(tiny_checkpoints["image_faithful"]).fingerprint == base


def test_fingerprint_covers_settings_and_not_remarks(rewrite, tiny_checkpoints):
    base = load_checkpoint(tiny_checkpoints["speech"])
    with_remark = load_checkpoint(rewrite(metadata={"info": json.dumps({"trained": "longer"})}, source="speech"))
    assert with_remark.fingerprint == base.fingerprint and with_remark.info == {"trained": "longer"}
    config = {**base.config.to_dict(), "lmbda_low": 0.0005}
    settings = {**base.signal_settings, "floor_db": base.signal_settings["floor_db"] + 1}
    others = {
        load_checkpoint(rewrite(metadata={name: json.dumps(value)}, source="speech")).fingerprint
        for name, value in (("config", config), ("signal", settings))
    }
    assert len(others | {base.fingerprint}) == 3


@pytest.mark.slow
def test_the_digest_covers_every_tensor(rewrite, tiny_checkpoints):
    tensors, _metadata = parts(tiny_checkpoints["image"])
    base = load_checkpoint(tiny_checkpoints["image"])
    assert load_decoder(tiny_checkpoints["image"]).digest == base.digest
    seen = {base.digest}
    for name, tensor in tensors.items():
        changed = tensor.numpy().copy()
        if tensor.numel():
            np.atleast_1d(changed).view(np.uint8).reshape(-1)[-1] ^= 1
            seen.add(load_checkpoint(rewrite({name: torch.from_numpy(changed)})).digest)
    seen.add(load_checkpoint(rewrite(metadata={"default_coder": json.dumps("huffman")})).digest)
    assert len(seen) == 2 + sum(bool(tensor.numel()) for tensor in tensors.values())
    assert load_checkpoint(rewrite(metadata={"info": json.dumps({"trained": "longer"})})).digest == base.digest


def test_overwriting_the_file_does_not_reach_what_was_loaded(tiny_checkpoints, tmp_path):
    """Files are mapped into memory where that is fast: what is loaded must be a copy."""
    path = tmp_path / "copy.safetensors"
    path.write_bytes(tiny_checkpoints["image"].read_bytes())
    checkpoint = load_checkpoint(path)
    before = {
        coder: {name: array.copy() for name, array in arrays.items()} for coder, arrays in checkpoint.tables.items()
    }
    gains = checkpoint.model["gains.log_gain"].clone()
    with open(path, "r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    for coder, arrays in before.items():
        for name, array in arrays.items():
            assert np.array_equal(checkpoint.tables[coder][name], array), (coder, name)
    assert torch.equal(checkpoint.model["gains.log_gain"], gains)
