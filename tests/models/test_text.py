"""The word table."""

import jax
import jax.numpy as jnp
import numpy as np

from knotjax import drive
from knotjax.models.text import WordTable


def test_every_word_has_a_row_of_its_own():
    model = WordTable(len(drive.WORDS), 6)
    ids = jnp.arange(len(drive.WORDS), dtype=jnp.int32)[None]
    params = model.init(jax.random.key(0), ids)
    rows = np.asarray(model.apply(params, ids))[0]
    assert rows.shape == (len(drive.WORDS), 6)
    assert len(np.unique(rows, axis=0)) == len(drive.WORDS)
    happy = jnp.asarray(drive.word_ids("happy", "nod"))[None]
    np.testing.assert_array_equal(
        model.apply(params, happy)[0], rows[[drive.WORDS.index("happy"), drive.WORDS.index("nod")]]
    )
