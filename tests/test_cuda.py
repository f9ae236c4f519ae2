"""What only a GPU can show: bfloat16 training, pinned memory, models that travel."""

import numpy as np
import pytest
import torch

from connection_utils.assets import DEFAULT_DATA, DEFAULT_MODEL
from connection_utils.bert import ConnectionBert
from connection_utils.config import TrainingConfig
from connection_utils.dataset import ConnectionDataset
from connection_utils.reading import read_splits
from connection_utils.training import train
from connection_utils.workspace import ROOT

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
TEXTS = ["A man is playing a flute.", "Hi", "The stock market fell today, they say."]


def test_embeddings_are_those_of_the_cpu():
    gpu = ConnectionBert.from_local(ROOT / DEFAULT_MODEL)
    assert gpu.device.type == "cuda"
    cpu = ConnectionBert.from_local(ROOT / DEFAULT_MODEL, device="cpu")
    np.testing.assert_allclose(gpu.encode(TEXTS), cpu.encode(TEXTS), atol=1e-3)


def test_training_lowers_the_loss_and_the_model_travels_to_the_cpu(tmp_path):
    model = ConnectionBert.from_local(ROOT / DEFAULT_MODEL)
    splits = {name: pairs.sample(96, random_state=1)
              for name, pairs in read_splits(ROOT / DEFAULT_DATA).items()}
    history = train(model, ConnectionDataset(splits["train"], model.tokenizer), splits["dev"],
                    TrainingConfig(batch_size=8, evaluations_per_epoch=1))
    assert sum(history.step_losses[-6:]) < sum(history.step_losses[:6])
    model.save(tmp_path / "mine")
    cpu = ConnectionBert.from_local(tmp_path / "mine", device="cpu")
    np.testing.assert_allclose(cpu.encode(TEXTS), model.encode(TEXTS), atol=1e-3)
