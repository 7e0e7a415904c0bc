"""What is read of a run for a browser, one question at a time."""

from __future__ import annotations

import base64

import numpy as np

from harness.results.browse import OpenRun, question
from harness.store.arrays import pack, unpack


def test_of_tiles_each_token_has_its_place(make_run):
    areas = [(2, 3, 0.0, 0.0, 1.0, 1.0), (2, 2, 0.0, 0.0, 1.0, 0.5), (2, 2, 0.0, 0.5, 1.0, 1.0)]
    kept = np.arange(14) % 3 == 0
    run = make_run(images=range(5))
    tome = next(ident for ident, _, facts in run.cells() if (facts["method"], facts["keep"]) == ("tome", 24))
    with run.connection as connection:
        connection.execute("INSERT INTO layouts VALUES (0, 'i1', 14, NULL, NULL)")
        connection.executemany(
            "INSERT INTO areas VALUES ('i1', ?, ?, ?, ?, ?, ?, ?)", [(i, *area) for i, area in enumerate(areas)]
        )
        connection.execute("UPDATE samples SET kept = ? WHERE question = 'i1-0' AND cell = ?", (pack(kept), tome))
    run.close()
    seen = OpenRun(run.folder)
    answer = lambda name: next(one for one in question(seen, name)["answers"] if one["cell"] == tome)
    found = answer("i1-0")
    assert found["areas"] == areas and found["grid"] is None
    assert unpack(base64.b64decode(found["kept"]), (14,)).tolist() == kept.tolist()
    assert answer("i2-0")["areas"] == []
    seen.close()
