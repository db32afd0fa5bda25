"""One boundary where files are read: whatever a library raises over one becomes a line that names the file and the remedy.

Also the limits that keep a small file from taking all memory or time: sizes are checked where they are claimed, before
anything is unpacked.
"""

from noiseshift.reading.archives import check_zip, gunzip
from noiseshift.reading.arrays import (
    fill,
    names_in_arrays,
    read_array,
    read_arrays,
    read_at_once,
    read_safetensors,
    read_table,
)
from noiseshift.reading.boundary import (
    MB,
    MissingFile,
    ReadingError,
    as_text,
    folder_while_open,
    named_in_text,
    named_while_open,
    open_ordinary,
    opened,
    reading,
    regular,
    require_room,
    size_of,
)
from noiseshift.reading.text import bounded, read_csv, read_json, read_text, read_words, read_yaml
from noiseshift.reading.unchanged import unchanged

__all__ = [
    "MB",
    "MissingFile",
    "ReadingError",
    "as_text",
    "bounded",
    "check_zip",
    "fill",
    "folder_while_open",
    "gunzip",
    "named_in_text",
    "named_while_open",
    "names_in_arrays",
    "open_ordinary",
    "opened",
    "read_array",
    "read_arrays",
    "read_at_once",
    "read_csv",
    "read_json",
    "read_safetensors",
    "read_table",
    "read_text",
    "read_words",
    "read_yaml",
    "reading",
    "regular",
    "require_room",
    "size_of",
    "unchanged",
]
