"""Documents with the same text, to the character."""

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from jaxtyping import Int64

from deepseek.data.quality.document import Document
from deepseek.data.quality.duplicates import DuplicateOperator
from deepseek.data.quality.operator import Scores, Survey


class Exact(DuplicateOperator):
    """By a digest of 128 bits: two different texts do not meet."""

    name = "exact"
    relation = "same text as"

    def score(self, batch: Sequence[Document]) -> Scores:
        """Digests."""
        digests = b"".join(
            blake2b(document.text.strip().encode(), digest_size=16).digest() for document in batch
        )
        return {"digest": np.frombuffer(digests, "<u8").reshape(-1, 2)}

    def leaders(self, survey: Survey) -> Int64[np.ndarray, " N"]:
        """The first row with the same digest."""
        if not len(survey.numbers):
            return np.zeros(0, np.int64)
        digests = np.asarray(survey.scores["digest"])
        order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: equal rows stay in order
        sorted_ = digests[order]
        is_new = np.r_[True, (sorted_[1:] != sorted_[:-1]).any(axis=1)]
        heads = order[np.flatnonzero(is_new)]
        leaders = np.empty(len(order), np.int64)
        leaders[order] = heads[np.cumsum(is_new) - 1]
        return leaders
