"""Files of format 1, written before the first release, load and go on for good.

`tests/data/format-1/` was written by the last commit before the rooms of the house were made, and
`model.safetensors` by the first that saved models:

checkpoint.safetensors   an RNN, an LSTM and a GRU in float64 after 3 steps of Adam, with the
                         recurrent state; its configuration holds the windows and the losses of
                         3 more steps
run/                     `seqcore train text.txt --cell gru --hidden 6 --embed 3 --seq-len 16
                         --batch 2 --steps 6 --schedule constant`
model.safetensors        one layer of each kind that there was, in float32
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import seqcore as sc
from seqcore import cells, cli, optimizers
from seqcore.character.run import load_run

pytestmark = pytest.mark.host

FOLDER = Path(__file__).parent.parent / "data" / "format-1"


@pytest.fixture
def seqcore_(tmp_path, monkeypatch, capsys):
    """Call the command line beside copies of the files, and return what it prints."""
    shutil.copytree(FOLDER, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    def call(*arguments):
        assert cli.main(list(arguments)) == 0
        return capsys.readouterr().out

    return call


def test_a_checkpoint_has_the_types_that_it_was_saved_with():
    loaded = sc.load_checkpoint(FOLDER / "checkpoint.safetensors")
    assert type(loaded.opt_state) is optimizers.AdamState
    kinds = [type(state) for state in loaded.state if state != ()]
    assert kinds == [cells.LSTMState, cells.RNNState, cells.GRUState]
    assert loaded.config["text"] == "aé\n😀"
    assert loaded.config["none"] is None


def test_a_checkpoint_gives_each_parameter_the_count_of_all():
    state = sc.load_checkpoint(FOLDER / "checkpoint.safetensors").opt_state
    assert {name: int(count) for name, count in state.counts.items()} == dict.fromkeys(state.mu, 3)
    assert int(state.count) == 3


def test_a_checkpoint_goes_on_with_the_losses_of_then():
    params, opt_state, state, config = sc.load_checkpoint(FOLDER / "checkpoint.safetensors")
    model = sc.Sequential(sc.Embedding(2), sc.LSTM(3), sc.RNN(2), sc.GRU(2), sc.Dense(5))
    optimizer = sc.adam(0.1)
    losses = []
    for window in np.asarray(config["windows"])[3:]:
        y, state, tape = model.forward(params, window[:-1], state)
        loss, dy = sc.cross_entropy(y, window[1:])
        _, grads, _ = model.backward(params, tape, dy)
        params, opt_state = optimizer.update(params, grads, opt_state)
        losses.append(float(loss))
    np.testing.assert_allclose(losses, config["losses"], rtol=1e-12)


def test_a_model_is_the_one_of_then():
    model, params = sc.load_model(FOLDER / "model.safetensors")
    assert model == sc.Sharded(
        sc.Sequential(
            sc.Embedding(2),
            sc.LSTM(3, peephole=True, bidirectional=True),
            sc.GRU(2, layers=2, reset_after=False),
            sc.GRU(2),
            sc.Dropout(0.1, seed=2**64 - 1),
            relu=sc.RNN(2, activation="relu", recompute=3),
            out=sc.Dense(2),
        ),
        shards=2,
    )
    y, _ = model.predict(params, np.asarray([[0, 1], [2, 3], [4, 0]]))
    expected = [
        [[1.94868, 1.94991], [-2.70882, -2.70787]],
        [[1.35298, 1.30656], [-0.60725, -0.61202]],
        [[-1.04879, -1.11893], [1.07308, 1.0261]],
    ]
    np.testing.assert_allclose(y, expected, atol=1e-5)


def test_a_run_is_sampled_as_it_was_then(seqcore_):
    given = ["run", "--prompt", "The ", "--length", "40"]
    expected = "The nnnrnwrmnnwrmnwwkT  nn nnwkT  nn nnwkT  \n"
    assert seqcore_("sample", *given, "--temperature", "0") == expected
    assert seqcore_("sample", *given) == "The na \ntwnrkxt\nv\npAvkbf\n.onneïïnnpe.pkbiwxd\n"


def test_a_run_is_measured_as_it_was_then(seqcore_):
    said = seqcore_("eval", "run", "text.txt")
    assert re.search(r"^  seqcore +5\.033$", said, re.MULTILINE)
    assert "0 of its characters are outside the model's vocabulary of 35\n" in said


def test_a_run_is_resumed_and_comes_to_the_result_of_then(seqcore_):
    said = seqcore_("train", "text.txt", "--resume", "run", "--steps", "9")
    assert "run     run, from step 6\n" in said
    run, progress = load_run("run")
    assert progress.step == 9
    first, last = run.metrics
    assert first == (6, 192, 0.043, 5.11448, 5.02302)
    assert last.characters == 288
    np.testing.assert_allclose(last[3:], (5.01526, 4.92501), atol=2e-5)
    sums = {name: np.abs(value.astype(float)).sum() for name, value in progress.params.items()}
    expected = {
        "embedding.W": 49.425025534350425,
        "gru.0.W_x": 22.931364783085883,
        "gru.0.W_h": 37.26416194625199,
        "gru.0.b": 0.8619801253080368,
        "gru.0.b_h": 0.4137265160679817,
        "dense.W": 40.58883883297676,
        "dense.b": 2.3816878693178296,
    }
    assert sums == pytest.approx(expected, rel=1e-5)
