"""Pairs become token ids, and batches are padded no more than needed."""

import pickle
from functools import partial
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from connection_utils import (
    ConnectionDataset,
    LengthBucketedBatches,
    collate_connections,
    encoding,
)
from connection_utils.dataset import connection_loader
from connection_utils.model_folder.files import load_tokenizer

PAIRS = pd.DataFrame({
    "sentence1": ["the cat", "a man plays guitar in the park", "dog"],
    "sentence2": ["the cat sat on the mat", "a dog", "cat"],
    "score": [0.8, 0.1, 0],
})


@pytest.fixture
def tokenizer(tiny_folder):
    return load_tokenizer(tiny_folder)


@pytest.fixture
def dataset(tokenizer) -> ConnectionDataset:
    return ConnectionDataset(PAIRS, tokenizer)


@pytest.fixture
def many(tokenizer) -> ConnectionDataset:
    """53 pairs of different lengths."""
    return ConnectionDataset(pd.DataFrame({
        "sentence1": ["dog " * (1 + 7 * i % 23) for i in range(53)],
        "sentence2": ["cat " * (1 + 5 * i % 19) for i in range(53)],
        "score": [i / 52 for i in range(53)]}), tokenizer)


def real_ish_lengths(count: int = 2000) -> list[int]:
    """Numbers of tokens spread as those of captions and news: many short, few long."""
    return (5 + np.random.default_rng(0).gamma(3, 5, count)).astype(int).tolist()


def padded_tokens(lengths: list[int], batches: list[list[int]]) -> int:
    return sum(max(lengths[i] for i in rows) * len(rows) for rows in batches)


# ConnectionDataset

def test_len_is_the_number_of_pairs(dataset):
    assert len(dataset) == 3


def test_an_item_holds_both_sentences_token_ids_and_the_score(dataset, tokenizer):
    item = dataset[0]
    assert set(item) == {"sentence1", "sentence2", "score"}
    assert tokenizer.convert_ids_to_tokens(item["sentence1"]) == \
        ["[CLS]", "the", "cat", "[SEP]"]
    assert tokenizer.convert_ids_to_tokens(item["sentence2"]) == \
        ["[CLS]", "the", "cat", "sat", "on", "the", "mat", "[SEP]"]
    assert item["score"] == 0.8


def test_a_whole_number_as_score_becomes_a_float(dataset):
    assert isinstance(dataset[2]["score"], float)


def test_an_index_past_the_end_ends_a_loop(dataset):
    with pytest.raises(IndexError):
        dataset[3]
    assert len(list(dataset)) == 3


def test_a_negative_index_counts_from_the_end(dataset):
    assert dataset[-1] == dataset[2] and dataset[-3] == dataset[0]
    with pytest.raises(IndexError):
        dataset[-4]


def test_texts_are_cut_to_max_length(tokenizer):
    dataset = ConnectionDataset(PAIRS, tokenizer, max_length=5)
    assert [len(i["sentence1"]) for i in dataset] == [4, 5, 3]
    assert dataset[1]["sentence1"][-1] == tokenizer.sep_token_id


def test_lengths_are_those_of_the_longer_sentence(dataset):
    assert dataset.lengths.tolist() == [8, 9, 3]


def test_a_table_with_gaps_in_its_index_is_read_by_position(tokenizer):
    picked = ConnectionDataset(PAIRS.iloc[[2, 0]], tokenizer)
    assert [item["score"] for item in picked] == [0, 0.8]


@pytest.mark.parametrize("value", [None, float("nan"), 7])
def test_a_text_that_is_no_str_is_named(tokenizer, value):
    pairs = PAIRS.astype(object)
    pairs.loc[1, "sentence2"] = value
    with pytest.raises(TypeError, match=r"texts\[1\] is .*expected a str"):
        ConnectionDataset(pairs, tokenizer)


def test_texts_are_tokenised_in_blocks(tokenizer, dataset, monkeypatch):
    seen = []

    def watched(texts, **options):
        seen.append(len(texts))
        return tokenizer(texts, **options)

    watched.pad_token_id, watched.unk_token_id = tokenizer.pad_token_id, tokenizer.unk_token_id
    monkeypatch.setattr(encoding, "BLOCK", 2)
    assert list(ConnectionDataset(PAIRS, watched)) == list(dataset)
    assert seen == [2, 1, 2, 1]                         # both columns, two texts at a time
    with pytest.raises(TypeError, match=r"texts\[2\]"):  # counted over all blocks
        ConnectionDataset(PAIRS.assign(sentence2=["a", "b", None]), watched)


def test_tokens_are_kept_in_4_bytes_each_whatever_their_number(many):
    for tokens in (many.sentence1, many.sentence2):
        assert tokens.ids.itemsize == 4 and tokens.offsets.itemsize == 8
        assert len(tokens.ids) == tokens.offsets[-1] == sum(map(len, tokens))
        assert len(tokens.offsets) == 54


def test_the_fingerprint_is_that_of_all_tokens_scores_and_their_order(tokenizer, dataset):
    def fingerprint(pairs: pd.DataFrame) -> str:
        return ConnectionDataset(pairs, tokenizer).fingerprint()

    assert fingerprint(PAIRS.copy()) == dataset.fingerprint()
    assert len(dataset.fingerprint()) == 16
    others = [PAIRS.assign(score=[0.8, 0.1, 1e-9]), PAIRS.iloc[::-1], PAIRS.head(2),
              PAIRS.rename(columns={"sentence1": "sentence2", "sentence2": "sentence1"}),
              PAIRS.assign(sentence2=["the cat sat on the mat", "a dog", "dog"])]
    assert len({dataset.fingerprint(), *map(fingerprint, others)}) == 6


def test_dataset_and_collate_can_be_pickled(dataset):
    """Worker processes on Windows and macOS get them so."""
    again = pickle.loads(pickle.dumps(dataset))
    assert list(again) == list(dataset)
    collate = pickle.loads(pickle.dumps(partial(collate_connections, pad_token_id=0)))
    assert collate([again[0]])["input_ids"].shape == (2, 8)


# ConnectionDataset.sample

@pytest.mark.parametrize(("share", "size"), [(1, 53), (1.0, 53), (0.5, 26), (0.1, 5),
                                             (0.02, 1), (1e-9, 1)])
def test_a_sample_has_the_share_asked_for_and_at_least_one_pair(many, share, size):
    assert len(many.sample(share, seed=3)) == size


def test_a_sample_holds_pairs_of_the_whole_unchanged_and_in_their_order(many):
    whole, part = list(many), list(many.sample(0.4, seed=3))
    rows = [whole.index(item) for item in part]                # the scores are all different
    assert rows == sorted(set(rows)) and len(rows) == 21
    assert rows != list(range(21))                             # drawn, not the first ones


def test_the_seed_decides_which_pairs_are_drawn(many):
    draw = {seed: list(many.sample(0.4, seed)) for seed in (3, 4)}
    np.random.rand()                                           # plays no part
    assert list(many.sample(0.4, 3)) == draw[3] != draw[4]


def test_a_smaller_share_is_a_part_of_a_larger_one(many):
    shares = [0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.99, 1.0]
    drawn = [set(many.sample(share, seed=3).score) for share in shares]
    for smaller, larger in pairwise(drawn):
        assert smaller <= larger


def test_the_whole_share_is_the_dataset_itself_and_a_sample_leaves_it_alone(many):
    before = list(many)
    many.sample(0.1, seed=3).score[0] = 7.0
    assert list(many) == before
    assert list(many.sample(1.0, seed=3)) == before


def test_a_sample_goes_through_the_loader(many):
    part = many.sample(0.4, seed=3)
    assert part.lengths.tolist() == [max(len(i["sentence1"]), len(i["sentence2"]))
                                     for i in part]
    scores = torch.cat([batch["score"] for batch in connection_loader(part, batch_size=8)])
    assert sorted(scores.tolist()) == pytest.approx(sorted(part.score))


# collate_connections

def test_a_batch_has_these_shapes_and_dtypes(dataset):
    batch = collate_connections(list(dataset), pad_token_id=0)
    assert set(batch) == {"input_ids", "attention_mask", "score"}
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (6, 9)
    assert batch["input_ids"].dtype == batch["attention_mask"].dtype == torch.int64
    assert batch["score"].shape == (3,)
    assert batch["score"].dtype == torch.float32
    assert batch["score"].tolist() == pytest.approx([0.8, 0.1, 0])


def test_first_sentences_come_first_then_all_second_ones(dataset):
    batch = collate_connections(list(dataset), pad_token_id=0)
    expected = [item["sentence1"] for item in dataset] + [item["sentence2"] for item in dataset]
    for row, mask, ids in zip(batch["input_ids"], batch["attention_mask"], expected):
        assert row[mask == 1].tolist() == ids
        assert mask.tolist() == [1] * len(ids) + [0] * (9 - len(ids))


@pytest.mark.parametrize("pad_token_id", [0, 77])
def test_the_padding_is_the_tokenizers(dataset, pad_token_id):
    batch = collate_connections(list(dataset), pad_token_id)
    assert (batch["input_ids"][batch["attention_mask"] == 0] == pad_token_id).all()
    assert (batch["attention_mask"] == 0).any()


def test_padding_goes_only_to_the_longest_text_of_the_batch(dataset):
    assert collate_connections([dataset[2]], 0)["input_ids"].shape == (2, 3)
    assert collate_connections([dataset[0], dataset[2]], 0)["input_ids"].shape == (4, 8)


# LengthBucketedBatches

@pytest.mark.parametrize(("count", "batch_size", "bucket"), [
    (1, 16, 50), (16, 16, 50), (17, 16, 50), (1000, 16, 1), (1000, 16, 4), (999, 7, 50),
    (5, 1, 2)])
def test_each_pair_comes_exactly_once_in_batches_of_the_size_asked_for(count, batch_size,
                                                                       bucket):
    sampler = LengthBucketedBatches(real_ish_lengths(count), batch_size, bucket=bucket)
    batches = list(sampler)
    assert sorted(i for rows in batches for i in rows) == list(range(count))
    assert len(batches) == len(sampler) == -(-count // batch_size)
    sizes = sorted(map(len, batches))
    assert sizes[1:] == [batch_size] * (len(batches) - 1)      # one may be smaller
    assert sizes[0] == count - batch_size * (len(batches) - 1)


def test_seed_and_epoch_decide_the_order():
    def order(seed: int, epoch: int) -> list[list[int]]:
        sampler = LengthBucketedBatches(real_ish_lengths(), 16, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order(3, 0) == order(3, 0)
    assert order(3, 2) == order(3, 2)
    orders = [order(3, 0), order(3, 1), order(3, 2), order(4, 0), order(4, 1)]
    assert len({str(batches) for batches in orders}) == len(orders)


def test_the_global_random_state_is_neither_used_nor_changed():
    sampler = LengthBucketedBatches(real_ish_lengths(), 16)
    torch.manual_seed(1)
    first, state = list(sampler), torch.get_rng_state()
    torch.manual_seed(2)
    assert list(sampler) == first
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_going_over_an_epoch_twice_gives_the_same_batches():
    sampler = LengthBucketedBatches(real_ish_lengths(), 16)
    assert list(sampler) == list(sampler)


def test_batches_do_not_come_sorted_by_length():
    lengths = real_ish_lengths()
    longest = [max(lengths[i] for i in rows) for rows in LengthBucketedBatches(lengths, 16)]
    assert abs(np.corrcoef(longest, range(len(longest)))[0, 1]) < 0.3


def test_buckets_pad_much_less_than_a_shuffle():
    lengths = real_ish_lengths()
    shuffled, bucketed = (padded_tokens(lengths, list(LengthBucketedBatches(lengths, 16,
                                                                            bucket=bucket)))
                          for bucket in (1, 50))
    assert sum(lengths) <= bucketed < 1.1 * sum(lengths)
    assert shuffled > 1.4 * sum(lengths)


def as_lists(lengths: list[int], batch_size: int, seed: int, bucket: int, epoch: int
             ) -> list[list[int]]:
    """The batches of an epoch as they were made before, all of them at once."""
    rng = torch.Generator().manual_seed(1_000_003 * seed + epoch)
    order = torch.randperm(len(lengths), generator=rng).tolist()
    size = batch_size * bucket
    batches = []
    for start in range(0, len(order), size):
        rows = order[start:start + size]
        if bucket > 1:
            rows.sort(key=lambda i: lengths[i])
        batches += [rows[i:i + batch_size] for i in range(0, len(rows), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=rng).tolist()]


@pytest.mark.parametrize(("count", "batch_size", "bucket"), [
    (1, 16, 50), (17, 16, 1), (1000, 16, 4), (999, 7, 50), (2000, 16, 50), (5, 1, 2),
    (0, 4, 1)])
@pytest.mark.parametrize(("seed", "epoch"), [(12, 0), (3, 2)])
def test_the_batches_are_those_that_all_trainings_before_had(count, batch_size, bucket, seed,
                                                             epoch):
    lengths = real_ish_lengths(count)
    expected = as_lists(lengths, batch_size, seed, bucket, epoch)
    for given in (lengths, np.array(lengths, np.int32)):
        sampler = LengthBucketedBatches(given, batch_size, seed, bucket)
        sampler.set_epoch(epoch)
        assert list(sampler) == expected
        sampler.set_epoch(epoch, skip=3)
        assert list(sampler) == expected[3:]
        assert all(type(row) is int for rows in sampler for row in rows)


# DataLoader

def batches_of(loader: DataLoader) -> list[dict[str, torch.Tensor]]:
    batches = list(loader)
    assert batches
    return batches


@pytest.mark.parametrize("bucket", [50, 1])
def test_the_loader_gives_every_pair_once_in_the_samplers_order(many, bucket):
    loader = connection_loader(many, batch_size=8, seed=3, bucket=bucket)
    expected = list(LengthBucketedBatches(many.lengths, 8, seed=3, bucket=bucket))
    batches = batches_of(loader)
    assert len(loader) == len(batches) == 7
    for rows, batch in zip(expected, batches, strict=True):
        assert batch["score"].tolist() == pytest.approx([many[i]["score"] for i in rows])
        assert batch["input_ids"].shape == (2 * len(rows), max(many.lengths[i] for i in rows))


def test_set_epoch_through_the_loader_changes_the_order(many):
    loader = connection_loader(many, batch_size=8, seed=3)
    first = torch.cat([batch["score"] for batch in batches_of(loader)])
    loader.batch_sampler.set_epoch(1)
    second = torch.cat([batch["score"] for batch in batches_of(loader)])
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, second.sort().values)


def test_two_worker_processes_give_the_same_batches(many):
    alone = connection_loader(many, batch_size=8, seed=3)
    helped = DataLoader(many, batch_sampler=alone.batch_sampler,
                        collate_fn=alone.collate_fn, num_workers=2, timeout=30)
    for one, other in zip(batches_of(alone), batches_of(helped), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("score", [5, 1.1, -1.5, float("nan")])
def test_a_score_that_no_cosine_can_reach_is_refused_with_its_row(tokenizer, score):
    """A table of 0..5 would train without a word, towards cosines that do not exist."""
    with pytest.raises(ValueError, match=f"row 1: score is {float(score)}, .*Divide by"):
        ConnectionDataset(PAIRS.assign(score=[0.5, score, 0]), tokenizer)
