"""BERT without padding: the tokens of a batch in one row, kept apart where they attend."""

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, BertModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

PACKED = "packed"              # the name under which transformers knows `_attention`


def last_hidden_state(bert: BertModel, input_ids: torch.Tensor, attention_mask: torch.Tensor
                      ) -> torch.Tensor:
    """What `bert` makes of a padded batch, computed for its tokens alone.

    input_ids, attention_mask: (n, tokens) int64. Returns (n, tokens, hidden), which is 0
    where the mask is 0. Linear layers, LayerNorm and GELU see each token by itself, so
    they get the (all tokens, hidden) that are not padding; attention alone needs to know
    which tokens stand in one text. ``bert.set_attn_implementation(PACKED)`` comes first.
    """
    n, tokens = input_ids.shape
    places = attention_mask.flatten().nonzero().squeeze(1)              # (all tokens,)
    hidden = bert(input_ids=input_ids.flatten()[None, places],
                  position_ids=(places % tokens)[None],
                  places=places, padding=attention_mask.bool()).last_hidden_state
    return _padded(hidden[0], places, n, tokens)


def _attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None,
               places=None, padding=None, **options):
    """Attention within each text; query, key, value: (1, heads, all tokens, head size)."""
    if places is None:                               # a padded batch, as anybody may give it
        return sdpa_attention_forward(module, query, key, value, attention_mask,
                                      dropout=dropout, scaling=scaling, **options)
    n, tokens = padding.shape
    query, key, value = (_padded(x[0].transpose(0, 1), places, n, tokens).transpose(1, 2)
                         for x in (query, key, value))      # (n, heads, tokens, head size)
    mixed = F.scaled_dot_product_attention(query, key, value, padding[:, None, None],
                                           dropout_p=dropout, scale=scaling)
    return mixed.transpose(1, 2).flatten(0, 1)[None, places], None


def _padded(x: torch.Tensor, places: torch.Tensor, n: int, tokens: int) -> torch.Tensor:
    """(all tokens, …) -> (n, tokens, …), 0 at padding."""
    return x.new_zeros(n * tokens, *x.shape[1:]).index_copy(0, places, x).unflatten(
        0, (n, tokens))


AttentionInterface.register(PACKED, _attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
