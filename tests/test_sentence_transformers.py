"""Folders as people have them: sentence-transformers' embeddings, or a refusal.

What is refused, and with which words, is in test_broken_folders.py.
"""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from folders import Spoil, load, put, set_config, set_tokenizer
from sentence_transformers import SentenceTransformer
from test_broken_folders import beside_pooling, both, own_rules, parts, pooling

from connection_utils import check_model_dir

TEXTS = ["The CAT sat on the mat", "Café NAÏVE straße İstanbul", "고양이가 잔다",
         "中文字 カタカナ が", "ไทย हिन्दी עברית", "ＡＢＣ １２ ﬁ",
         "zero\u200bwidth\u00ad\ufeff", "😀 👩\u200d💻 x²",
         "a.b,c!? don't [SEP] €5", "\tdog 12 3.4\n", "", "[MASK]"]
LONG = " ".join(["a dog ran in the park"] * 300)

CASED = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
         "strip_accents": None, "lowercase": False}
WIDE = {"type": "Sequence", "normalizers": [{"type": "NFKC"}, {"type": "Lowercase"}]}


def own_tokenizer(**rules: object) -> Spoil:
    """A tokenizer.json with these rules, to be followed as it is."""
    return both(own_rules(**rules),
                set_tokenizer(tokenizer_class="PreTrainedTokenizerFast", pad_token="[PAD]",
                              unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
                              mask_token="[MASK]"))


# A BERT folder alone: the tokenizer decides.
TOKENIZERS: dict[str, Spoil] = {
    "three files": both(),
    "lower-casing stated": set_tokenizer(do_lower_case=True),
    "cased": set_tokenizer(do_lower_case=False),
    "accents kept": set_tokenizer(tokenizer_class="BertTokenizer", strip_accents=False),
    "CJK not split": set_tokenizer(tokenizer_class="BertTokenizer",
                                   tokenize_chinese_chars=False),
    "cased rules of its own": own_tokenizer(normalizer=CASED),
    "full-width signs": own_tokenizer(normalizer=WIDE),
    "no normalizer": own_tokenizer(normalizer=None),
    "white space only": own_tokenizer(pre_tokenizer={"type": "WhitespaceSplit"}),
    "settings of a training in config.json": set_config(
        is_decoder=False, use_cache=False, gradient_checkpointing=True, num_labels=3),
}
# A folder of sentence-transformers: pooling and length, too.
SETTINGS: dict[str, Spoil] = {
    **{f"pooling {name}, as until version 5": pooling(
        word_embedding_dimension=32, **{f"pooling_mode_{mode}": mode == key
                                        for mode in ("mean_tokens", "cls_token", "max_tokens")})
       for name, key in {"mean": "mean_tokens", "cls": "cls_token",
                         "max": "max_tokens"}.items()},
    **{f"pooling {name}": pooling(embedding_dimension=32, pooling_mode=name)
       for name in ("mean", "cls", "max")},
    "the pooling's folder has another name": both(
        parts("Transformer", "Pooling", paths=("", "2_Pooling")),
        put("2_Pooling/config.json", json.dumps(
            {"word_embedding_dimension": 32, "pooling_mode_cls_token": True}))),
    "normalised": both(
        pooling(word_embedding_dimension=32, pooling_mode_mean_tokens=True),
        parts("Transformer", "Pooling", "Normalize", paths=("", "1_Pooling", "2_Normalize"))),
    **{f"a length of {length}": both(
        beside_pooling("sentence_bert_config.json", max_seq_length=length),
        pooling(word_embedding_dimension=32, pooling_mode_mean_tokens=True))
       for length in (3, 40, 512, None)},
    "the tokenizer's length": both(
        pooling(word_embedding_dimension=32, pooling_mode_mean_tokens=True),
        set_tokenizer(tokenizer_class="BertTokenizer", model_max_length=77)),
    "lower-cased twice": both(
        beside_pooling("sentence_bert_config.json", max_seq_length=64, do_lower_case=True),
        pooling(word_embedding_dimension=32, pooling_mode_mean_tokens=True)),
    "cut on the left": both(
        pooling(word_embedding_dimension=32, pooling_mode_mean_tokens=True),
        set_tokenizer(tokenizer_class="BertTokenizer", truncation_side="left",
                      model_max_length=40)),
    "no prompts": both(
        beside_pooling("config_sentence_transformers.json", prompts={},
                       default_prompt_name=None, similarity_fn_name="dot"),
        pooling(word_embedding_dimension=32, pooling_mode_mean_tokens=True)),
    "a prompt that is not the default": both(
        beside_pooling("config_sentence_transformers.json", prompts={"query": "query: "},
                       default_prompt_name=None),
        pooling(word_embedding_dimension=32, pooling_mode_mean_tokens=True)),
}


@pytest.fixture
def folder(make_tiny_folder, alter) -> Path:
    """A BERT whose vocabulary has the signs of many scripts, capitals and accents included.

    Most of its words are read alike by every tokenizer, as the signs alone would be refused.
    """
    signs = sorted(set("".join(TEXTS + [text.lower() for text in TEXTS])) - set(" \t\n"))
    words = map("".join, product("abcdefghijklmnop", repeat=3))
    tokens = list(dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "dog", "the",
                                 *signs, *(f"##{sign}" for sign in signs), *words]))
    made = make_tiny_folder(vocab_size=len(tokens), max_position_embeddings=512)
    alter.vocab(made, tokens)
    return made


@pytest.mark.parametrize("what", [*TOKENIZERS, *SETTINGS])
def test_the_embeddings_are_those_of_sentence_transformers(folder, tmp_path, what):
    (TOKENIZERS | SETTINGS)[what](folder)
    theirs = SentenceTransformer(str(folder), device="cpu")
    ours = load(folder)
    texts = TEXTS if what in TOKENIZERS else [*TEXTS, LONG]       # cut to 128 or 512 tokens
    assert ours.tokenize(TEXTS) == theirs.tokenizer(
        TEXTS, truncation=True, max_length=ours.max_length)["input_ids"]
    expected = theirs.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(ours.encode(texts, normalize=True), expected, atol=1e-5)
    ours.save(tmp_path / "saved")                                  # nothing is lost by saving
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    np.testing.assert_allclose(again.encode(texts, normalize_embeddings=True), expected,
                               atol=1e-5)
    np.testing.assert_allclose(load(tmp_path / "saved").encode(texts, normalize=True),
                               expected, atol=1e-5)


def test_the_texts_show_what_the_tokenizers_differ_in(folder):
    """Two tokenizers of the table that read TEXTS alike would show nothing."""
    seen = set()
    for what in ("three files", "cased", "accents kept", "CJK not split", "full-width signs",
                 "no normalizer", "white space only"):
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).unlink(missing_ok=True)
        TOKENIZERS[what](folder)
        assert check_model_dir(folder).ok, what
        seen.add(json.dumps(load(folder).tokenize(TEXTS)))
    assert len(seen) == 7
