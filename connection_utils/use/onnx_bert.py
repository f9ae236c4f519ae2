"""A ConnectionBert as onnxruntime runs it: faster than PyTorch on a CPU, in fp32 or int8."""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import torch
import torch.nn.functional as F
from onnxruntime.quantization import QuantType, quantize_dynamic

from connection_utils.bert import POOLINGS, ConnectionBert
from connection_utils.encoding import encode_by_length, paired_cosines, tokenize
from connection_utils.ground.whole_files import write_whole


def export_onnx(model: ConnectionBert, path: str | Path, int8: bool = False) -> None:
    """Write `model`'s BERT as one .onnx file, whole or not at all.

    Token ids and mask go in, ``last_hidden_state`` comes out: ``input_ids`` and
    ``attention_mask`` are (n, tokens) int64, the result is (n, tokens, hidden) float32;
    pooling is left to whoever runs it. With `int8` the linear layers multiply in 8 bits:
    weights are rounded once, a scale for each output channel, and activations while it
    runs, a scale for each batch (dynamic quantization). Weights take 7 of the 8 bits, as
    CPUs without VNNI add products up in 16 bits, which 8 would overflow. Embedding tables
    stay float32.
    """
    n, tokens = torch.export.Dim("n"), torch.export.Dim("tokens")
    ids = torch.ones((2, 8), dtype=torch.long, device=model.device)
    mask = ids.clone()
    mask[1, 5:] = 0            # without padding the exporter would leave the mask out
    was_training = model.training
    try:
        with (tempfile.TemporaryDirectory() as folder, write_whole(path) as scratch,
              _quiet()):
            plain = Path(folder) / "model.onnx" if int8 else scratch
            torch.onnx.export(
                _LastHiddenState(model.eval()), (ids, mask), plain,
                input_names=["input_ids", "attention_mask"],
                output_names=["last_hidden_state"], external_data=False, verbose=False,
                dynamic_shapes=({0: n, 1: tokens}, {0: n, 1: tokens}))
            if int8:
                quantize_dynamic(plain, scratch, weight_type=QuantType.QInt8, per_channel=True,
                                 reduce_range=True, op_types_to_quantize=["MatMul", "Gemm"])
    finally:
        model.train(was_training)


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings in the block: exporter and quantizer talk to their makers."""
    root, nowhere = logging.getLogger(), logging.NullHandler()
    before = root.manager.disable
    root.addHandler(nowhere)               # or the first warning would give root a handler
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(nowhere)


class _LastHiddenState(torch.nn.Module):
    def __init__(self, model: ConnectionBert) -> None:
        super().__init__()
        self.bert = model.bert

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.bert(input_ids, attention_mask).last_hidden_state


class OnnxBert:
    """`encode` and `similarity` of a ConnectionBert, computed by onnxruntime on the CPU.

    In fp32 the embeddings equal the model's to about 1e-6. In `int8` they do not: ask your
    dev pairs what it costs. There a text's embedding also depends a little on the texts in
    the same batch, as these share the scale of the activations. The file that it runs
    (`export_onnx` says what goes in and out) stays at `path`, if that is given.
    """

    def __init__(self, model: ConnectionBert, int8: bool = False,
                 path: str | Path | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(path or Path(folder) / "model.onnx")
            export_onnx(model, path, int8)
            self.size = path.stat().st_size                # bytes
            self.session = onnxruntime.InferenceSession(
                path.read_bytes(), options, providers=["CPUExecutionProvider"])
        self.tokenizer, self.pooling = model.tokenizer, model.pooling
        self.max_length, self.hidden_size = model.max_length, model.bert.config.hidden_size

    def encode(self, texts: Sequence[str], batch_size: int = 64, normalize: bool = False
               ) -> np.ndarray:
        """Sentence embeddings (n, hidden) float32 in the order of `texts`.

        Texts are sorted by length inside, so that little is padded. `normalize` makes
        each vector's length 1.
        """
        def embed(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            hidden, = self.session.run(None, {k: t.numpy() for k, t in batch.items()})
            vectors = POOLINGS[self.pooling](torch.from_numpy(hidden), batch["attention_mask"])
            return F.normalize(vectors) if normalize else vectors

        return encode_by_length(tokenize(texts, self.tokenizer, self.max_length),
                                self.tokenizer.pad_token_id, self.hidden_size, embed,
                                batch_size)

    def similarity(self, sentences1: Sequence[str], sentences2: Sequence[str],
                   batch_size: int = 64) -> np.ndarray:
        """cos(u, v) in -1..1 of each pair: (n,) float32. A repeated text is encoded once."""
        return paired_cosines(sentences1, sentences2,
                              lambda texts: self.encode(texts, batch_size, normalize=True))
