"""From ``pytorch_model.bin`` to ``model.safetensors``, compared bit for bit."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from connection_utils.ground.paths import as_path, shown
from connection_utils.ground.whole_files import write_whole
from connection_utils.model_folder.check import check_model_dir
from connection_utils.model_folder.files import ModelFolderError


def convert_to_safetensors(folder: str | Path) -> Path:
    """Write the weights in ``pytorch_model.bin`` as ``model.safetensors`` beside it.

    All of them, heads too, under the names that are loaded. Each is read back and compared
    bit for bit before the file gets its name; the .bin stays. ModelFolderError, and nothing
    left behind, if the folder is broken, cannot be written, or holds the file already.
    """
    path = as_path(folder) / "model.safetensors"
    if path.exists():
        raise ModelFolderError(
            f"{shown(path)} is there already, and is what is loaded; nothing was written. "
            "Move it away first if you want to have it made from pytorch_model.bin.")
    report = check_model_dir(folder)
    report.raise_if_broken()
    # cloned, as a safetensors file holds no two tensors that share their memory
    tensors = {name: tensor.detach().clone(memory_format=torch.contiguous_format)
               for name, tensor in report.tensors.items()}
    try:
        with write_whole(path) as scratch:
            save_file(tensors, scratch, metadata={"format": "pt"})
            if not _holds(scratch, report.tensors):
                raise OSError("what was read back is not what was written")
    except Exception as error:    # safetensors has kinds of its own
        size = sum(tensor.nbytes for tensor in tensors.values())
        raise ModelFolderError(
            f"{shown(path)} cannot be written: {error}. It needs {size:,} bytes of disk "
            "space and a folder that you may write to; nothing was left behind.") from error
    return path


def _holds(path: Path, tensors: dict[str, torch.Tensor]) -> bool:
    """Whether the safetensors file holds just `tensors`, each bit for bit."""
    def bits(tensor: torch.Tensor) -> tuple[torch.dtype, torch.Size, bytes]:
        flat = tensor.detach().reshape(-1)
        return tensor.dtype, tensor.shape, flat.view(torch.uint8).numpy().tobytes()

    back = load_file(path)
    return back.keys() == tensors.keys() and all(
        bits(back[name]) == bits(tensor) for name, tensor in tensors.items())
