"""Where results may be written, by which process, and how: nothing of a user's is lost, and nothing is left half written."""

from noiseshift.writing.digests import ADDED, SENTENCE, added, changed
from noiseshift.writing.locks import BusyError
from noiseshift.writing.marks import adopt
from noiseshift.writing.places import PlaceError, check_file, check_folder
from noiseshift.writing.replacing import claimed, claimed_file, jointly, merged_folder, replaced_file, whole_folder
from noiseshift.writing.whole import whole_file, write_table, write_tensors, write_text

__all__ = [
    "ADDED",
    "SENTENCE",
    "BusyError",
    "PlaceError",
    "added",
    "adopt",
    "changed",
    "check_file",
    "check_folder",
    "claimed",
    "claimed_file",
    "jointly",
    "merged_folder",
    "replaced_file",
    "whole_file",
    "whole_folder",
    "write_table",
    "write_tensors",
    "write_text",
]
