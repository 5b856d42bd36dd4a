"""Files of rows: what a file is, how its rows are read, and on which line each of them is.

CSV, JSON lines and Parquet, plain or gzipped, one file or a folder of parts as Spark writes it. Nothing is guessed
that could lose a row: quotes, field counts and bytes are checked, and a fault is named with file and line. What the
columns mean is the business of `readers`.
"""

import csv
import gzip
import io
import itertools
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from r2ec_lib.data.schema import DataError, brief, check_names

KINDS = {".csv": "csv", ".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet"}
FOREIGN = {
    b"PK\x03\x04": "an Excel workbook or another zip archive; save the sheet as CSV (UTF-8), or unpack it",
    b"\xd0\xcf\x11\xe0": "an Excel workbook; save the sheet as CSV (UTF-8)",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
    b"\x1f\x8b": "gzipped twice; unpack it once",
    b"BZh": "compressed by bzip2; unpack it, or compress it by gzip",
    b"\xfd7zXZ": "compressed by xz; unpack it, or compress it by gzip",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it, or compress it by gzip",
}
"""What files are that often bear the name of another kind, by their first bytes."""
SEPARATORS = ",;\t|"
CHUNK_ROWS = 50_000
UNREADABLE = (EOFError, OSError, zlib.error)  # of a gzip file that is cut off or damaged

_DOUBLE = 'Double a quote that is part of a text ("") and put the text in quotes, or write JSON lines or Parquet.'
_ESCAPED_BYTE = re.compile("[\udc80-\udcff]")  # what `_lines` makes of a byte that is no UTF-8
_LINE_END = re.compile(r"\r\n?|\n")


def read_file(path: str | Path) -> pd.DataFrame:
    """The rows of a file or of a folder of parts; index: record number from 0.

    Fields of CSV and numbers of JSON come as the text in the file (whole floats of JSON, such as 7.0, as "7"), Parquet
    in its own types (integers and booleans with gaps as objects). What is empty is missing, and so is a blank text of
    JSON or Parquet. A column without a name is called "Unnamed: <position>". Raises DataError for a missing or foreign
    file, a repeated column name, or a row that cannot be read.
    """
    tables: list[pd.DataFrame] = []
    first, *others = parts(path)
    for part in (first, *others):
        table = _READERS[kind_of(part)](part)
        if tables and kind_of(part) != "jsonl" and list(table.columns) != list(tables[0].columns):
            raise DataError(
                f"{part}, line 1: the columns are {', '.join(map(brief, table.columns))}; those of {first} are "
                f"{', '.join(map(brief, tables[0].columns))}. Write all parts with the same header."
            )
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if others else tables[0]


def place(path: str | Path) -> Callable[[int | None], str]:
    """A `schema.Where` for a file: finds the line of a record (by a pass over the file) only when it is asked."""

    def where(row: int | None) -> str:
        if row is None:
            return str(path)
        places = (f"{part}, {line}" for part in parts(path) for line in _row_places(part))
        return next(itertools.islice(places, row, None))

    return where


def _row_places(part: Path) -> Iterator[str]:
    kind = kind_of(part)
    if kind == "parquet":
        return (f"row {row + 1}" for row in range(pa.parquet.read_metadata(part).num_rows))
    return (f"line {line}" for line, _ in (_csv_start(part)[2] if kind == "csv" else records(part)))


def parts(path: str | Path) -> list[Path]:
    """The file itself, or the parts (part-…) of a folder as Spark writes it, without empty ones. Raises DataError."""
    if path == "":  # as a Path, the working folder
        raise DataError("The path of a file is empty. For your own logs, set interactions_path and items_path.")
    path = Path(path)
    if not path.is_dir():
        return [path]
    folders = sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if folders:
        raise DataError(
            f"{path}: holds the folder {folders[0]!r}, so it is partitioned or was never finished. Write it again "
            "without partitionBy, and wait for its end."
        )
    inside = sorted(part for part in path.glob("part-*") if part.stat().st_size)
    if not inside:
        raise DataError(f"{path}: a folder without part-… files. Name a file, or a folder as Spark writes it.")
    return inside


def kind_of(path: Path) -> str:
    """One of the kinds in KINDS, from the first bytes where they tell, else from the name. Raises DataError."""
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix not in KINDS:
        raise DataError(f"{path}: expected a name in .csv, .jsonl (also .gz) or .parquet.")
    if not path.is_file():
        raise DataError(f"{path}: no such file. Correct the path.")
    try:
        with _open(path) as file:
            head = file.read(8)
    except UNREADABLE:
        head = b""  # the reader will say so
    for magic, what in FOREIGN.items():
        if head.startswith(magic):
            raise DataError(f"{path}: this is {what}.")
    return "parquet" if head.startswith(b"PAR1") else KINDS[suffix]


def records(path: Path, faults: list[DataError] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line from 1, object) of every line of a JSON-lines file; empty lines are passed over, numbers stay text.

    Whole floats, such as 7.0, become the integer's text. Raises DataError for a line that is no JSON object; with a
    list of `faults`, the error goes there and the line is passed over.
    """
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            line.encode()  # fails for bytes that are no UTF-8
            record = json.loads(line, parse_int=str, parse_float=_float, object_pairs_hook=_object)
            if not isinstance(record, dict):
                raise ValueError(f"expected one JSON object, found {line.strip()[:40]}")
            if "\\ud" in line.lower():
                json.dumps(record, ensure_ascii=False).encode()  # fails for half an emoji
        except (ValueError, RecursionError) as error:
            fault = DataError(f"{path}, line {number}: {_json_fault(error)}. Correct or remove the line.")
            if faults is None:
                raise fault from error
            faults.append(fault)
        else:
            yield number, record


def _float(text: str) -> str:
    """A float as it stands in the file; a whole one that is exact as an integer, so that ids 7 and 7.0 are one."""
    value = float(text)
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else text


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        repeated = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
        raise ValueError(f"the key {brief(repeated)!r} is repeated")
    return record


def _json_fault(error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        sign = error.object[error.start]
        raw = _ESCAPED_BYTE.match(sign)
        return "not UTF-8 text" if raw else f"half a character (\\u{ord(sign):x}, a surrogate without its other half)"
    if isinstance(error, json.JSONDecodeError):
        return f"not valid JSON ({error}), expected one object per line"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)


def _read_jsonl(path: Path) -> pd.DataFrame:
    table = pd.DataFrame([record for _, record in records(path)], dtype=object)
    if not len(table.columns):
        raise DataError(f"{path}: cannot be read as JSON lines, for it is empty.")
    blank = table.map(lambda value: isinstance(value, str) and not value.strip())
    return table.mask(blank).set_axis(_named(list(table.columns), str(path)), axis=1)


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        table = pa.parquet.ParquetFile(path, page_checksum_verification=True).read()
        table.validate(full=True)  # texts that are no UTF-8 would be read
        names, columns = table.column_names, [_parquet_column(column) for column in table.columns]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as parquet ({error}). Write the file again.") from error
    return pd.DataFrame(dict(zip(_named(names, str(path)), columns, strict=True)))


def _parquet_column(column: pa.ChunkedArray) -> pd.Series:
    if pa.types.is_nested(column.type):
        return pd.Series(column.to_pylist(), dtype=object)
    if re.search("string|binary", str(column.type)):
        column = column.cast(pa.large_string())  # text of older writers too; fails where it is none
        column = pc.if_else(pc.equal(pc.utf8_trim_whitespace(column), ""), None, column)
    return column.to_pandas(integer_object_nulls=True, date_as_object=False)


def _named(names: list[str], where: str) -> list[str]:
    """The names, with one for each column that has none. Raises DataError where one is repeated."""
    names = [name if name.strip() else f"Unnamed: {position}" for position, name in enumerate(names)]
    check_names(names, where)
    return names


# ---- CSV -----------------------------------------------------------------------------------------------------------


def _read_csv(path: Path) -> pd.DataFrame:
    """Arrow reads a file in which every line is a row beyond doubt; any other goes through the strict reader."""
    separator, names, rows = _csv_start(path)
    try:
        with _open(path) as file:
            data = file.read()
        if _is_plain(data, separator):
            options = pa.csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
            )
            read, parse = pa.csv.ReadOptions(column_names=names, skip_rows=1), pa.csv.ParseOptions(delimiter=separator)
            return pa.csv.read_csv(pa.BufferReader(data), read, parse, options).to_pandas()
    except (pa.ArrowException, *UNREADABLE):
        pass  # the strict reader names the line
    chunks = [pa.table([pa.array([], pa.string())] * len(names), names)]
    while chunk := list(itertools.islice(rows, CHUNK_ROWS)):
        columns = zip(*(record for _, record in chunk), strict=True)
        chunks.append(pa.table([pa.array([field or None for field in c], pa.string()) for c in columns], names))
    return pa.concat_tables(chunks).to_pandas()


def _csv_start(path: Path) -> tuple[str, list[str], Iterator[tuple[int, list[str]]]]:
    """Separator, column names, and an iterator over the data rows, each with the line on which it ends."""
    first = next((line for line in _lines(path) if line.strip()), None)
    if first is None:
        raise DataError(f"{path}: cannot be read as csv, for it is empty.")
    csv.field_size_limit(2**31 - 1)
    separator = max(SEPARATORS, key=lambda sign: len(next(csv.reader([first], delimiter=sign))))
    rows = _csv_rows(path, separator)
    _, header = next(rows)
    return separator, _named(header, f"{path}, line 1"), rows


def _csv_rows(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """(line on which it ends, fields) of the header and of every row; empty lines are passed over.

    Raises DataError for another number of fields than the header's, for quotes that do not enclose a whole
    field, and where a quoted text takes up lines that look like rows: then one stray quote was closed by another.
    """
    held: list[str] = []  # lines of the row at hand
    reader = csv.reader(_held(path, held), delimiter=separator, strict=True)
    header: list[str] = []
    while True:
        first = reader.line_num + 1
        held.clear()
        try:
            record = next(reader, None)
        except csv.Error as error:
            closed = "end of data" not in str(error)
            what = f"is followed by more text where it closes, at line {reader.line_num}" if closed else "never closes"
            line = first + _lines_before_fault(held, separator)
            raise DataError(f"{path}, line {line}: a quote opens here and {what}. {_DOUBLE}") from error
        if record is None:
            return
        if not record:
            continue
        header = header or record
        if len(record) != len(header):
            span = f" from a quote at line {first} on" if len(held) > 1 else ""
            raise DataError(
                f"{path}, line {reader.line_num}: {len(record)} fields{span}, expected {len(header)} "
                f"({separator.join(map(brief, header))}). Correct or remove the line."
            )
        alike = all(line.count(separator) == len(record) - 1 for line in held if line.strip())
        if len(record) > 1 and len(held) > 1 and alike and not any(f"{separator} " in line for line in held[1:]):
            raise DataError(
                f"{path}, line {first}: a quote opens here and closes at line {reader.line_num} only, and each line "
                f"between looks like a row. {_DOUBLE}"
            )
        yield reader.line_num, record


def _held(path: Path, held: list[str]) -> Iterator[str]:
    """The lines of a CSV file, which are put into `held` on their way."""
    for number, line in enumerate(_lines(path), start=1):
        if not line.isascii() and _ESCAPED_BYTE.search(line):
            raise DataError(
                f"{path}, line {number}: not UTF-8 text (perhaps Latin-1 or Windows-1252). Save the file as UTF-8."
            )
        if '\\"' in line:
            raise DataError(
                f'{path}, line {number}: a backslash precedes a quote (\\"), as Spark and MySQL escape it. '
                f'{_DOUBLE} In Spark that is .option("escape", \'"\').'
            )
        held.append(line)
        yield line


def _lines_before_fault(held: list[str], separator: str) -> int:
    """How many lines of a broken row end before the field that is at fault."""
    sign, text, end = re.escape(separator), "".join(held), 0
    field = re.compile(rf'(?:"(?:[^"]++|"")*+"|[^"{sign}\r\n][^{sign}\r\n]*+)?(?:{sign}|\r\n?|\n)')
    while match := field.match(text, end):
        end = match.end()
    return len(_LINE_END.findall(text[:end]))


def _is_plain(data: bytes, separator: str) -> bool:
    """Whether every line is a row: quotes enclose whole fields or are doubled inside, and none holds a line end.

    In such a file the first, third, … quote opens a field and the others close one; a doubled quote closes and opens
    at once. A quote after a backslash is left to the strict reader.
    """
    start = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    if data[start : start + 1] in b"\r\n" or b'\\"' in data:
        return False
    signs = np.frombuffer(data, np.uint8)
    quotes = np.flatnonzero(signs == ord('"'))
    opening, closing = quotes[::2], quotes[1::2]
    if len(opening) != len(closing):
        return False
    bounds = np.frombuffer(f'{separator}\r\n"'.encode(), np.uint8)
    opens = np.isin(signs[opening - 1], bounds) | (opening == start)
    closes = np.isin(signs[np.minimum(closing + 1, len(signs) - 1)], bounds)
    inside = np.searchsorted(quotes, np.flatnonzero((signs == 10) | (signs == 13))) % 2  # of each line end
    return bool(opens.all() and closes.all() and not inside.any())


# ---- bytes ---------------------------------------------------------------------------------------------------------


def _open(path: Path) -> gzip.GzipFile | BinaryIO:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if zipped else path.open("rb")


def _lines(path: Path) -> Iterator[str]:
    """Lines of a text file with their ends (LF, CR LF or CR); bytes that are no UTF-8 come as lone surrogates."""
    number = 0
    try:
        with io.TextIOWrapper(_open(path), encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            for line in file:
                number += 1
                yield line
    except UNREADABLE as error:
        raise DataError(f"{path}: broken after line {number} ({error}). Fetch or write the file again.") from error


_READERS = {"csv": _read_csv, "jsonl": _read_jsonl, "parquet": _read_parquet}  # by kind
