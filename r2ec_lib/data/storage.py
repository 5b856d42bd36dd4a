"""Tables (Parquet) and figures (JSON) on disk, written so that a reader never meets half a file; choices (YAML).

A file is written under a temporary name in its own folder and then renamed; `alone` keeps other processes out. What a
table holds is the business of `schema`; this module knows nothing of it.
"""

import ast
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from filelock import FileLock, Timeout
from pydantic_core import to_jsonable_python

from r2ec_lib.data.schema import DataError


def write_table(df: pd.DataFrame, path: str | Path) -> None:
    """Writes `df` without its index to the Parquet file `path`; parent folders are created."""
    write_atomically(Path(path), lambda temporary: df.to_parquet(temporary, index=False))


def read_table(path: str | Path) -> pd.DataFrame:
    """The table in the Parquet file `path`; list columns hold one NumPy array per row. Raises DataError."""
    return _read(Path(path), pd.read_parquet)


def write_json(obj: Any, path: str | Path) -> None:
    """Writes `obj` as JSON; NaN and infinities become null, NumPy values numbers, times and paths strings."""
    plain = to_jsonable_python(obj, inf_nan_mode="null", fallback=lambda value: value.tolist())
    write_text(json.dumps(plain, indent=2, ensure_ascii=False, allow_nan=False) + "\n", path)


def write_text(text: str, path: str | Path) -> None:
    """Writes `text` as UTF-8."""
    write_atomically(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"))


@contextmanager
def alone(lock: Path, refusal: Exception) -> Iterator[None]:
    """Holds `lock`, or raises `refusal` where another process does. It is the operating system's, so it ends with its
    process, however that ends."""
    try:
        held = FileLock(lock, timeout=0).acquire()
    except Timeout:
        raise refusal from None
    with held:
        yield


@contextmanager
def whole_folder(folder: str | os.PathLike) -> Iterator[Path]:
    """Gives a new folder to write in, which takes the place of `folder` at the end, unless there was an error.

    The old folder stays whole until it is moved aside, and comes back unless the new one follows. Others may read the
    new one, and the weights in it, as they may any folder and file made here.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as aside:  # for its owner alone
        fresh, old = Path(aside) / "new", Path(aside) / "old"
        fresh.mkdir()
        yield fresh
        for weights in fresh.rglob("*.safetensors"):  # which safetensors writes for their owner alone
            if not weights.is_symlink():
                weights.chmod(fresh.stat().st_mode & 0o666)
        try:
            if folder.exists():
                os.replace(folder, old)
            os.replace(fresh, folder)
        finally:
            if old.exists() and not folder.exists():  # stopped between the two
                os.replace(old, folder)


def read_json(path: str | Path) -> Any:
    """The object in the JSON file `path`. Raises DataError."""
    return _read(Path(path), lambda p: json.loads(p.read_text(encoding="utf-8")))


class YamlLoader(yaml.SafeLoader):
    """Safe YAML that refuses a repeated key, whose first value would be lost, and leaves as text what people write in
    other senses: dates, 010 (an octal 8), 0b1 (binary) and 1:30 (a sexagesimal 90)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        if not isinstance(node, yaml.MappingNode):
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: expected lines `key: value`")
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for number, key in enumerate(keys):
            if key.value in [other.value for other in keys[:number]]:
                raise yaml.YAMLError(f'line {key.start_mark.line + 1}: the key "{key.value}" is repeated')
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, TypeError, AttributeError, LookupError) as error:  # a tag that the value does not fit
            place = f"line {node.start_mark.line + 1}"
            raise yaml.YAMLError(f"{place}: {node.value!r} is no {node.tag.rpartition(':')[2]}") from error


TEXT = ("tag:yaml.org,2002:str", re.compile(r"[-+]?(0[0-9b_]+|[0-9_]+:[0-9:._]+)$"))
YamlLoader.yaml_implicit_resolvers = {
    first: [TEXT, *(pair for pair in resolvers if pair[0] != "tag:yaml.org,2002:timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def sha256(path: str | os.PathLike) -> str:
    """Hexadecimal SHA-256 of a file's bytes; of a folder, that of the names and digests of all that it holds."""
    if Path(path).is_dir():
        listing = "".join(f"{part.name} {sha256(part)}\n" for part in sorted(Path(path).iterdir()))
        return hashlib.sha256(listing.encode()).hexdigest()
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_digest(module: Path) -> str:
    """A short digest of a module's code, without comments and formatting."""
    return hashlib.sha256(ast.dump(ast.parse(module.read_text(encoding="utf-8"))).encode()).hexdigest()[:16]


def write_atomically(path: Path, write: Callable[[Path], Any]) -> None:
    """Lets `write` make a file under another name beside `path`, then renames it; parent folders are created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    if not path.is_file():
        raise DataError(f"{path}: no such file. Run the stage that writes it, or correct the path.")
    try:
        return read(path)
    except (ValueError, OSError) as error:  # pyarrow's and json's errors are ValueErrors or OSErrors
        raise DataError(f"{path}: cannot be read ({error}). Delete it and run the stage that writes it.") from error
