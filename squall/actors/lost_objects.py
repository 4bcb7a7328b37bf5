"""Which objects went with the node that held them."""

from __future__ import annotations

from collections.abc import Mapping

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError

INLINE_WAIT_S = 10.0


def lost_objects(references: Mapping[str, ray.ObjectRef]) -> set[str]:
    """Keys of the objects, owned by this process, that no living node has a copy of; nothing is fetched.

    An object of a node whose death Ray has not noticed yet passes for one that is there.
    """
    if not references:
        return set()
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    known = ray.experimental.get_object_locations(list(references.values()))
    return {key for key, reference in references.items()
            if not alive & set(known.get(reference, {}).get("node_ids", ())) and not _is_inline(reference)}


def _is_inline(reference: ray.ObjectRef) -> bool:
    """Whether the owner itself holds the object, as Ray does with those below 100 KiB; a lost one raises at once."""
    try:
        ray.get(reference, timeout=INLINE_WAIT_S)
    except (ObjectLostError, GetTimeoutError):
        return False
    return True
