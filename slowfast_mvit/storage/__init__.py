"""Files: written atomically, read safely, and fetched from or sent to wherever iopath reaches."""

from slowfast_mvit.storage.atomic import write_atomically, write_text_atomically
from slowfast_mvit.storage.outputs import output_folder, shared_output_folder, upload_changes
from slowfast_mvit.storage.remote import is_remote, local_copy, register_path_handlers
from slowfast_mvit.storage.torch_files import read_torch, save_torch

__all__ = [
    "is_remote",
    "local_copy",
    "output_folder",
    "read_torch",
    "register_path_handlers",
    "save_torch",
    "shared_output_folder",
    "upload_changes",
    "write_atomically",
    "write_text_atomically",
]
