"""Peak rates of GPUs, from the data sheets of their vendor.

Rates are those of dense matrix products in bfloat16 with sums in float32, in FLOP/s; sheets often state twice as much,
which holds for sparse matrices. Real products reach 60 to 80% of them. Memory is in bytes, bandwidth in bytes per second.
"""

from __future__ import annotations

from dataclasses import dataclass

_TERA, _GIGABYTE = 1e12, 2**30


@dataclass(frozen=True)
class Card:
    """A GPU."""

    flops: float  # per second, of dense bfloat16 matrix products
    memory: int  # bytes
    bandwidth: float  # bytes per second


# By a part of the name that CUDA reports. The first that matches counts.
CARDS = {
    "B200": Card(2250 * _TERA, 180 * _GIGABYTE, 7.7 * _TERA),
    "GH200": Card(989 * _TERA, 96 * _GIGABYTE, 4.0 * _TERA),
    "H200 NVL": Card(835 * _TERA, 141 * _GIGABYTE, 4.8 * _TERA),
    "H200": Card(989 * _TERA, 141 * _GIGABYTE, 4.8 * _TERA),
    "H100 PCIe": Card(756 * _TERA, 80 * _GIGABYTE, 2.0 * _TERA),
    "H100 NVL": Card(835 * _TERA, 94 * _GIGABYTE, 3.9 * _TERA),
    "H100": Card(989 * _TERA, 80 * _GIGABYTE, 3.35 * _TERA),
    "A100-SXM4-40GB": Card(312 * _TERA, 40 * _GIGABYTE, 1.555 * _TERA),
    "A100-PCIE-40GB": Card(312 * _TERA, 40 * _GIGABYTE, 1.555 * _TERA),
    "A100 80GB PCIe": Card(312 * _TERA, 80 * _GIGABYTE, 1.935 * _TERA),
    "A100": Card(312 * _TERA, 80 * _GIGABYTE, 2.039 * _TERA),
    "L40S": Card(362 * _TERA, 48 * _GIGABYTE, 0.864 * _TERA),
    "RTX 5090": Card(209.5 * _TERA, 32 * _GIGABYTE, 1.792 * _TERA),
    "RTX 4090": Card(165 * _TERA, 24 * _GIGABYTE, 1.008 * _TERA),
    "RTX 3090": Card(71 * _TERA, 24 * _GIGABYTE, 0.936 * _TERA),
}
_SLOWER = ("Laptop", "MIG", "4090 D")  # cards with such names, and parts of a card, do not reach these rates


def find_card(name: str) -> Card | None:
    """Returns the card of a name that CUDA reports, such as `NVIDIA H100 80GB HBM3`; None if it is not in the table."""
    if any(word in name for word in _SLOWER):
        return None
    return next((card for part, card in CARDS.items() if part in name), None)
