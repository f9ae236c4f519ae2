"""Matrix products in 16 bits (bfloat16), where the processor computes them sooner."""

import torch

PRECISIONS = ("auto", "fp32", "bf16")


def has_bf16(device: torch.device) -> bool:
    """Whether `device` itself multiplies in bfloat16; emulation would be slower than fp32.

    A GPU from NVIDIA's Ampere on, a CPU with AMX or AVX-512-BF16.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported()
                                     or torch.cpu._is_amx_tile_supported())


def resolved(precision: str, device: torch.device) -> str:
    """What `precision` is on `device`: "fp32" or "bf16".

    "auto" is bf16 on a GPU that has it, otherwise fp32. ValueError for another name, or for
    "bf16" on a device without it.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}")
    if precision == "bf16" and not has_bf16(device):
        raise ValueError(
            f"precision is 'bf16', and this {device.type} cannot compute in bfloat16, or only "
            "slower than in fp32 (a CPU needs AMX or AVX-512-BF16). Expected auto or fp32.")
    if precision == "auto":
        return "bf16" if device.type == "cuda" and has_bf16(device) else "fp32"
    return precision


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """In the block, matrix products on `device` run in `precision`; weights stay float32."""
    return torch.autocast(device.type, torch.bfloat16,
                          enabled=resolved(precision, device) == "bf16")


def bf16_gain() -> float:
    """How many times as fast as in fp32 this CPU multiplies in bfloat16; takes 0.1 s.

    Measured on the product of a feed-forward layer: 512 tokens, 384 to 1,536 numbers each.
    """
    from torch.utils.benchmark import Timer  # it imports a compiler that nothing else needs

    def seconds(dtype: torch.dtype) -> float:
        a, b = torch.ones(512, 384, dtype=dtype), torch.ones(384, 1536, dtype=dtype)
        timer = Timer("a @ b", globals={"a": a, "b": b})
        return timer.blocked_autorange(min_run_time=0.05).median

    return seconds(torch.float32) / seconds(torch.bfloat16)
