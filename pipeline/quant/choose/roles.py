"""Group the GEMMs of an encoder by the part that they play in a block."""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.graph.gemms import GemmGroup

MOST = 4
"""Roles that are tried, in sixteen plans. GEMMs of others, with fewer weights, stay as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """GEMMs that read the same tensor of their block: query, key and value of every block, say."""

    name: str
    gemms: tuple[str, ...]
    weights: int


def find_roles(groups: Sequence[GemmGroup], blocks: int) -> list[Role]:
    """Return the heaviest roles, in the order of the graph.

    Groups in graph order repeat from block to block; where their number is no multiple of the
    blocks, all of them are one role.
    """
    count = len(groups) // blocks if blocks and len(groups) % blocks == 0 else 1
    members: Mapping[int, list[GemmGroup]] = defaultdict(list)
    for place, group in enumerate(groups):
        members[place % count].append(group)
    roles = [
        Role(
            name=_name(of_role[0]) if count > 1 else "all GEMMs",
            gemms=tuple(gemm.name for group in of_role for gemm in group.gemms),
            weights=sum(gemm.weight.size for group in of_role for gemm in group.gemms),
        )
        for of_role in members.values()
    ]
    heaviest = sorted(roles, key=lambda role: -role.weights)[:MOST]
    return [role for role in roles if role in heaviest]


def _name(group: GemmGroup) -> str:
    """Return the GEMMs' names without the block's: ``attention.self.query + …key + …value``."""
    return " + ".join(re.split(r"\.\d+\.", gemm.name)[-1] for gemm in group.gemms)
