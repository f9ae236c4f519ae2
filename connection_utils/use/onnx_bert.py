"""A ConnectionBert as onnxruntime runs it: faster than PyTorch on a CPU, in fp32 or int8."""

import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnxruntime
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from connection_utils.bert import POOLINGS, ConnectionBert
from connection_utils.encoding import TextEncoder
from connection_utils.ground.whole_files import write_whole


class OnnxBert(TextEncoder):
    """`encode` and `similarity` of a ConnectionBert, computed by onnxruntime on the CPU.

    In fp32 the embeddings equal the model's to about 1e-6. In `int8` they do not: measure the
    cost on your dev pairs. There a text's embedding also depends a little on the other texts of
    its batch, as these share the scale of the activations.

    The .onnx file is kept at `path`, if one is given. Its inputs ``input_ids`` and
    ``attention_mask`` are (n, tokens) int64, its output ``last_hidden_state`` is (n, tokens,
    hidden) float32; pooling is not part of it. `size` is its size in bytes.
    """

    device = "cpu"

    def __init__(self, model: ConnectionBert, int8: bool = False,
                 path: str | Path | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(path or Path(folder) / "model.onnx")
            with write_whole(path) as scratch, _quiet():
                _export(model, scratch)
                if int8:
                    _quantize(scratch)
            self.size = path.stat().st_size
            self.session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"])
        self.tokenizer, self.pooling = model.tokenizer, model.pooling
        self.max_length, self.hidden_size = model.max_length, model.hidden_size

    def embed(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Token ids (n, tokens) and their mask -> sentence embeddings (n, hidden) float32."""
        hidden, = self.session.run(None, {"input_ids": input_ids.numpy(),
                                          "attention_mask": attention_mask.numpy()})
        return POOLINGS[self.pooling](torch.from_numpy(hidden), attention_mask)


def _export(model: ConnectionBert, path: Path) -> None:
    """Write a copy of `model`'s BERT, in evaluation mode, to `path`."""
    shape = {0: torch.export.Dim("n"), 1: torch.export.Dim("tokens")}
    ids = torch.ones((2, 8), dtype=torch.long, device=model.device)
    mask = ids.clone()
    mask[1, 5:] = 0            # without padding the exporter would leave the mask out
    torch.onnx.export(
        copy.deepcopy(model.bert).eval(), (ids, mask), path,
        input_names=["input_ids", "attention_mask"], output_names=["last_hidden_state"],
        dynamic_shapes={"input_ids": shape, "attention_mask": shape},
        external_data=False, verbose=False)


def _quantize(path: Path) -> None:
    """Let the linear layers of the .onnx file multiply in 8 bits (dynamic quantization).

    Weights are rounded once, with a scale for each output channel, and activations while it
    runs, with a scale for each batch. Weights take 7 of the 8 bits, as CPUs without VNNI add
    products up in 16 bits, which 8 would overflow. Embedding tables stay float32.
    """
    quantize_dynamic(path, path, weight_type=QuantType.QInt8, per_channel=True,
                     reduce_range=True, op_types_to_quantize=["MatMul", "Gemm"])


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings in the block: those of exporter and quantizer are for their makers."""
    root = logging.getLogger()
    handlers = root.handlers[:]            # the first warning gives an empty root one
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)
        root.handlers[:] = handlers
