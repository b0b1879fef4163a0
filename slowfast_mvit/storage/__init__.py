"""Files: written atomically or line by line, read safely, and fetched or uploaded with iopath."""

from slowfast_mvit.storage.append_log import AppendLog, whole_lines
from slowfast_mvit.storage.archives import read_npz
from slowfast_mvit.storage.atomic import (
    atomic_path,
    remove_files_of_dead_processes,
    remove_left_overs,
    temporary_path,
    write_atomically,
    write_text_atomically,
)
from slowfast_mvit.storage.remote import (
    is_remote,
    local_copy,
    output_folder,
    register_path_handlers,
    shared_output_folder,
    upload_changes,
)
from slowfast_mvit.storage.shard_paths import leads_to_file, split_path
from slowfast_mvit.storage.tables import csv_text, safe_cell
from slowfast_mvit.storage.torch_files import read_torch, save_torch

__all__ = [
    "AppendLog",
    "atomic_path",
    "csv_text",
    "is_remote",
    "leads_to_file",
    "local_copy",
    "output_folder",
    "read_npz",
    "read_torch",
    "register_path_handlers",
    "remove_files_of_dead_processes",
    "remove_left_overs",
    "safe_cell",
    "save_torch",
    "shared_output_folder",
    "split_path",
    "temporary_path",
    "upload_changes",
    "whole_lines",
    "write_atomically",
    "write_text_atomically",
]
