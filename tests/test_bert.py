"""ConnectionBert on the real default model: what it computes, saves and refuses."""

import numpy as np
import pytest
import torch
from transformers import BertModel

from connection_utils.bert import ConnectionBert, max_pooling, mean_pooling
from connection_utils.dataset import collate_connections
from connection_utils.encoding import pad_batch
from connection_utils.ground.paths import ROOT
from connection_utils.workshop.assets import DEFAULT_MODEL

TEXTS = ["A man is playing a flute.", "Someone plays an instrument.", "Hi",
         "The stock market fell today, and nobody who was asked could quite say why.",
         "", "word " * 300]


@pytest.fixture(scope="module")
def model():
    return ConnectionBert.from_local(ROOT / DEFAULT_MODEL, device="cpu")


@pytest.fixture(scope="module", params=["mean", "cls", "max"])
def saved(request, tmp_path_factory):
    """A model saved with each pooling and a max_length of its own, and its folder."""
    model = ConnectionBert.from_local(ROOT / DEFAULT_MODEL, request.param, max_length=64,
                                      device="cpu")
    folder = tmp_path_factory.mktemp("saved") / request.param
    model.save(folder)
    return model, folder


def test_encode_keeps_the_callers_order_whatever_the_batches(model):
    whole = model.encode(TEXTS)
    assert whole.shape == (len(TEXTS), 384) and whole.dtype == np.float32
    one_by_one = np.stack([model.encode([text])[0] for text in TEXTS])
    np.testing.assert_allclose(whole, one_by_one, atol=1e-5)
    np.testing.assert_allclose(model.encode(TEXTS, batch_size=2), whole, atol=1e-5)


def test_encode_equals_sentence_transformers_on_the_untouched_model(model):
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(ROOT / DEFAULT_MODEL), device="cpu")
    theirs.max_seq_length = 128
    np.testing.assert_allclose(model.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5)


def test_normalize_gives_length_one(model):
    np.testing.assert_allclose(
        np.linalg.norm(model.encode(TEXTS, normalize=True), axis=1), 1, atol=1e-6)


def test_no_texts_give_no_rows(model):
    assert model.encode([]).shape == (0, 384)
    assert model.similarity([], []).shape == (0,)


def test_similarity_is_the_cosine_of_the_embeddings(model):
    u, v = model.encode(TEXTS[:3]), model.encode(TEXTS[3:])
    expected = (u * v).sum(1) / np.linalg.norm(u, axis=1) / np.linalg.norm(v, axis=1)
    found = model.similarity(TEXTS[:3], TEXTS[3:])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found).max() <= 1 + 1e-6


def test_forward_on_a_batch_of_pairs_gives_their_cosines(model):
    pairs = list(zip(TEXTS[:3], TEXTS[1:4]))
    tokens = [(model.tokenize([a])[0], model.tokenize([b])[0]) for a, b in pairs]
    batch = collate_connections([{"sentence1": a, "sentence2": b, "score": 0.5}
                                 for a, b in tokens], model.tokenizer.pad_token_id)
    with torch.inference_mode():
        cosines = model(batch["input_ids"], batch["attention_mask"])
        u, v = model(batch["input_ids"], batch["attention_mask"], return_embeddings=True)
    assert cosines.shape == (3,) and u.shape == v.shape == (3, 384)
    np.testing.assert_allclose(cosines, model.similarity(*zip(*pairs)), atol=1e-5)


def test_encode_leaves_the_mode_and_the_random_state_alone(model):
    state = torch.get_rng_state()
    model.train()
    first = model.encode(TEXTS[:2])
    assert model.training
    model.eval()
    np.testing.assert_array_equal(first, model.encode(TEXTS[:2]))    # no dropout inside
    assert torch.equal(state, torch.get_rng_state())


def test_mean_pooling_leaves_padding_out():
    hidden = torch.tensor([[[1.0], [3.0], [100.0]]])
    assert mean_pooling(hidden, torch.tensor([[1, 1, 0]])).item() == 2.0


def test_max_pooling_leaves_padding_out_even_where_all_is_negative():
    hidden = torch.tensor([[[-3.0], [-1.0], [100.0]]])
    assert max_pooling(hidden, torch.tensor([[1, 1, 0]])).item() == -1.0


def test_pad_batch_pads_to_the_longest_and_masks():
    batch = pad_batch([[5, 6, 7], [8]], pad_token_id=0)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


@pytest.mark.parametrize("texts", [[None], ["a", float("nan")], ["a", 3]])
def test_what_is_not_a_text_is_refused_with_its_place(model, texts):
    with pytest.raises(TypeError, match=rf"texts\[{len(texts) - 1}\] is .*expected a str"):
        model.encode(texts)


def test_a_single_str_is_refused(model):
    with pytest.raises(TypeError, match="expected a list of texts"):
        model.encode("a text")
    for pair in (("cat", "dog"), (["cat"], "d"), ("c", ["dog"])):     # not letter by letter
        with pytest.raises(TypeError, match="expected two lists of texts"):
            model.similarity(*pair)


def test_pairs_of_unequal_number_are_refused(model):
    with pytest.raises(ValueError, match="2 first sentences and 1 second sentences"):
        model.similarity(["a", "b"], ["c"])


def test_unknown_pooling_and_too_long_max_length_are_refused():
    with pytest.raises(ValueError, match="pooling is 'median'; expected one of mean, cls, max"):
        ConnectionBert.from_local(ROOT / DEFAULT_MODEL, "median")
    with pytest.raises(ValueError, match="max_length is 513; expected .*at least 3, at most 512"):
        ConnectionBert.from_local(ROOT / DEFAULT_MODEL, max_length=513)


def test_a_saved_model_loads_back_equal_with_its_own_settings(saved):
    model, folder = saved
    again = ConnectionBert.from_local(folder, device="cpu")
    assert (again.pooling, again.max_length) == (model.pooling, 64)
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))


def test_a_saved_model_loads_in_sentence_transformers_equal_to_1e_5(saved):
    from sentence_transformers import SentenceTransformer

    model, folder = saved
    theirs = SentenceTransformer(str(folder), device="cpu")
    assert theirs.max_seq_length == 64
    np.testing.assert_allclose(model.encode(TEXTS), theirs.encode(TEXTS), atol=1e-5)


def test_a_saved_model_loads_in_transformers_equal_to_1e_5(saved):
    model, folder = saved
    bert = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()
    batch = pad_batch(model.tokenize(TEXTS), model.tokenizer.pad_token_id)
    with torch.inference_mode():
        theirs = bert(**batch).last_hidden_state
        ours = model.bert(**batch).last_hidden_state
    torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)


def test_saving_again_replaces_but_never_an_original_model(model, tmp_path):
    model.save(tmp_path / "mine")
    model.save(tmp_path / "mine")
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(FileExistsError, match="would be lost: .*config.json"):
        model.save(ROOT / DEFAULT_MODEL)


def test_the_three_files_of_the_original_post_are_enough(model, tmp_path):
    """config.json, pytorch_model.bin, vocab.txt, as bert-base-uncased comes."""
    torch.save({"bert." + name: tensor for name, tensor in model.bert.state_dict().items()},
               tmp_path / "pytorch_model.bin")
    for name in ("config.json", "vocab.txt"):
        (tmp_path / name).write_bytes((ROOT / DEFAULT_MODEL / name).read_bytes())
    again = ConnectionBert.from_local(str(tmp_path).replace("/", "\\"), device="cpu")
    assert again.max_length == 128 and again.pooling == "mean"
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))
