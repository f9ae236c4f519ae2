"""What only a GPU can show. Plain unittest: benchmarks/on_a_gpu.py runs it without pytest.

    python -m unittest tests.test_cuda
"""

import tempfile
import threading
import unittest
from pathlib import Path

import numpy as np
import torch

from connection_utils.bert import ConnectionBert
from connection_utils.config import TrainingConfig
from connection_utils.dataset import ConnectionDataset, connection_loader
from connection_utils.ground.paths import ROOT
from connection_utils.pair_files.reading import read_splits
from connection_utils.training import History, train
from connection_utils.workshop.assets import DEFAULT_DATA, DEFAULT_MODEL

DEVICE = "cuda"          # benchmarks/on_a_gpu.py sets these three to what it was given
MODEL = ROOT / DEFAULT_MODEL
DATA = ROOT / DEFAULT_DATA
TEXTS = ["A man is playing a flute.", "Hi", "The stock market fell today, they say."]


class OnTheGpu(unittest.TestCase):
    """Embeddings, training and checkpoints on `DEVICE`."""

    def setUp(self) -> None:
        """Skip where there is no GPU; make a folder for what a test writes."""
        if DEVICE == "cuda" and not torch.cuda.is_available():
            self.skipTest("no CUDA device")
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)

    def trained(self, model: ConnectionBert, **options: object) -> History:
        """Train `model` on 96 pairs, 8 a step."""
        splits = {name: pairs.sample(96, random_state=1)
                  for name, pairs in read_splits(DATA).items()}
        settings = {"epochs": 2, "batch_size": 8, "evaluations_per_epoch": 1}
        settings |= options.pop("config", {})
        return train(model, ConnectionDataset(splits["train"], model.tokenizer), splits["dev"],
                     TrainingConfig(**settings), tell=lambda sentence: None, **options)

    def test_embeddings_are_those_of_the_cpu(self) -> None:
        here = ConnectionBert.from_local(MODEL, device=DEVICE)
        cpu = ConnectionBert.from_local(MODEL, device="cpu")
        self.assertEqual(here.device.type, DEVICE)
        np.testing.assert_allclose(here.encode(TEXTS), cpu.encode(TEXTS), atol=1e-3)

    def test_the_best_device_is_taken(self) -> None:
        found = ConnectionBert.from_local(MODEL).device.type
        self.assertEqual(found, "cuda" if torch.cuda.is_available() else found)

    def test_training_fits_its_pairs_and_the_model_travels_to_the_cpu(self) -> None:
        model = ConnectionBert.from_local(MODEL, device=DEVICE)
        pairs = read_splits(DATA)["train"].sample(96, random_state=1)      # those of `trained`

        def error() -> float:
            cosines = model.similarity(pairs["sentence1"], pairs["sentence2"])
            return float(((cosines - pairs["score"]) ** 2).mean())

        before = error()
        self.trained(model, config={"learning_rate": 2e-4}, keep_start=False)
        self.assertLess(error(), before)
        model.save(self.folder / "mine")
        cpu = ConnectionBert.from_local(self.folder / "mine", device="cpu")
        np.testing.assert_allclose(cpu.encode(TEXTS), model.encode(TEXTS), atol=1e-3)

    def test_training_leaves_the_random_state_as_it_was(self) -> None:
        model, state = ConnectionBert.from_local(MODEL, device=DEVICE), torch.get_rng_state()
        on_gpu = torch.cuda.get_rng_state() if DEVICE == "cuda" else None
        self.trained(model)
        self.assertTrue(torch.equal(torch.get_rng_state(), state))
        if on_gpu is not None:
            self.assertTrue(torch.equal(torch.cuda.get_rng_state(), on_gpu))

    def test_batches_travel_in_pinned_memory(self) -> None:
        model = ConnectionBert.from_local(MODEL, device=DEVICE)
        pairs = read_splits(DATA)["dev"].head(8)
        loader = connection_loader(ConnectionDataset(pairs, model.tokenizer), 8,
                                   pin_memory=DEVICE == "cuda")
        self.assertEqual(next(iter(loader))["input_ids"].is_pinned(), DEVICE == "cuda")

    def test_a_training_that_was_cut_continues_with_the_same_dropout(self) -> None:
        """Its losses are near those of a run never cut: a GPU adds in any order."""
        def cut(history: History) -> None:
            if len(history.step_losses) == 10:
                stop.set()

        whole, stop = ConnectionBert.from_local(MODEL, device=DEVICE), threading.Event()
        expected = self.trained(whole).step_losses
        settings = {"checkpoint_every": 5, "resume": True}
        for how in ({"on_step": cut, "stop": stop}, {}):
            model = ConnectionBert.from_local(MODEL, device=DEVICE)
            losses = self.trained(model, config=settings, checkpoints=self.folder / "kept",
                                  **how).step_losses
        self.assertEqual(len(losses), 24)
        np.testing.assert_allclose(losses, expected, atol=5e-3)


if __name__ == "__main__":
    unittest.main()
