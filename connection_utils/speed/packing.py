"""BERT without padding: the tokens of a batch in one row, kept apart where they attend."""

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface, BertModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from connection_utils.speed.dropout import dropout as drop

PACKED = "packed"              # the name under which transformers knows `_attention`
TOGETHER = 8                   # texts of like length whose attention shares a rectangle
# On a CPU rows and widths are rounded up to multiples of these, so that there are few shapes: in
# bfloat16 it compiles a kernel for each new shape, and keeps it; when many texts are encoded, the
# memory that one shape leaves does not fit the next. A training in fp32 is not rounded.
EVEN_BF16, EVEN_ENCODING = (128, 16), (64, 8)


def last_hidden_state(bert: BertModel, input_ids: torch.Tensor, attention_mask: torch.Tensor
                      ) -> torch.Tensor:
    """What `bert` makes of a padded batch, computed for its tokens alone.

    input_ids, attention_mask: (n, tokens) int64. Returns (n, tokens, hidden), which is 0
    where the mask is 0. Linear layers, LayerNorm and GELU see each token by itself, so
    they get the (all tokens, hidden) that are not padding; attention alone needs to know
    which tokens stand in one text, and gets rectangles of a few texts of like length.
    ``bert.set_attn_implementation(PACKED)`` comes first.
    """
    n, tokens = input_ids.shape
    by_length = attention_mask.sum(dim=1).argsort(stable=True)
    mask = attention_mask[by_length].bool()
    cells = torch.arange(n * tokens, device=mask.device).view(n, tokens)
    places = cells[by_length][mask]                                     # (all tokens,)
    # on a GPU one wide rectangle costs less than many small launches
    on_cpu = mask.device.type == "cpu"
    together = TOGETHER if on_cpu else n
    row, width = (EVEN_BF16 if on_cpu and torch.is_autocast_enabled("cpu")
                  else EVEN_ENCODING if on_cpu and not torch.is_grad_enabled() else (1, 1))
    spare = (0, -len(places) % row)
    hidden = bert(input_ids=F.pad(input_ids.flatten()[places], spare)[None],
                  position_ids=F.pad(places % tokens, spare)[None],
                  rectangles=[_narrowed(rows, width) for rows in mask.split(together)]
                  ).last_hidden_state
    return _padded(hidden[0, :len(places)], places, n, tokens)


def _attention(module, query, key, value, attention_mask, dropout=0.0, scaling=None,
               rectangles=None, **options):
    """Attention within each text; query, key, value: (1, heads, all tokens, head size)."""
    if rectangles is None:                           # a padded batch, as anybody may give it
        return sdpa_attention_forward(module, query, key, value, attention_mask,
                                      dropout=dropout, scaling=scaling, **options)
    counts = [len(places) for _, places in rectangles]
    mixed = []
    together = torch.cat((query, key, value)).permute(2, 0, 1, 3)   # (tokens, 3, heads, size)
    spare = len(together) - sum(counts)              # nobody's tokens, at the end of the row
    for (mask, places), packed in zip(rectangles, together.split([*counts, spare])):
        q, k, v = _padded(packed, places, *mask.shape).permute(2, 0, 3, 1, 4)
        part = _attended(q, k, v, mask[:, None, None], dropout, scaling)
        mixed.append(part.transpose(1, 2).flatten(0, 1)[places])
    mixed.append(mixed[-1].new_zeros(spare, *mixed[-1].shape[1:]))
    return torch.cat(mixed)[None], None                       # (1, all tokens, heads, size)


def _attended(q, k, v, mask, p, scaling):
    """softmax(q k^T * scaling) v with dropout; all but the mask: (n, heads, tokens, size)."""
    if not p or q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v, mask, dropout_p=p, scale=scaling)
    weights = (q @ k.transpose(-1, -2) * scaling).masked_fill(~mask, -torch.inf)
    return drop(weights.softmax(dim=-1), p) @ v


def _narrowed(mask: torch.Tensor, even: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The mask without the columns behind its longest text, and where it is not 0.

    Its width is a multiple of `even`.
    """
    width = int(mask.any(dim=0).nonzero().max()) + 1
    mask = F.pad(mask[:, :width], (0, -width % even))
    return mask, mask.flatten().nonzero().squeeze(1)


def _padded(x: torch.Tensor, places: torch.Tensor, n: int, tokens: int) -> torch.Tensor:
    """(all tokens, …) -> (n, tokens, …), 0 at padding."""
    return x.new_zeros(n * tokens, *x.shape[1:]).index_copy(0, places, x).unflatten(
        0, (n, tokens))


AttentionInterface.register(PACKED, _attention)
AttentionMaskInterface.register(PACKED, sdpa_mask)
