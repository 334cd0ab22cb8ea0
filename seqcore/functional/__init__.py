"""The textbook door: functions with the interface of well-known course notebooks.

Names, argument orders, shapes and caches are those of the notebooks. Arrays are `(n_x, m)` for
one time step and `(n_x, m, T_x)` for a sequence. Each function converts its arguments for the
core, which works in `(T, n, m)`, and converts the results back. Equations are in `seqcore.cells`.

RNN parameters: `Wax (n_a, n_x)`, `Waa (n_a, n_a)`, `Wya (n_y, n_a)`, `ba (n_a, 1)`, `by
(n_y, 1)`. LSTM parameters: `Wf, Wi, Wc, Wo (n_a, n_a + n_x)` over `[a_prev; xt]`, `bf, bi,
bc, bo (n_a, 1)`, `Wy (n_y, n_a)`, `by`. `Wu`, `bu` may be given in place of
`Wi`, `bi`; the gradients are then `dWu`, `dbu`. Names from both pairs are refused. Parameters
that a function does not know are ignored.

A cache holds what it is made of, as in the notebooks: the states and gates of its step, the
caller's own `parameters` dict, `a0` (and `c0`) in the first cache, and each `xt` as a part of the
caller's x. So do not write into these, nor put other arrays into the dict, before the backward
functions have run; what `a_next` and `c_next` of a cell share with its cache, too. The sequences
`a`, `y_pred` and `c` are shared with nothing. All functions return new arrays, but for
`update_parameters_with_adam`, which returns a parameter without a gradient, and its v and s, as
they are.

Examples
--------
>>> import numpy as np
>>> from seqcore import functional as F
>>> rng = np.random.default_rng(0)
>>> n_x, n_a, n_y, m, T_x = 3, 5, 2, 4, 6
>>> shapes = {"Wax": (n_a, n_x), "Waa": (n_a, n_a), "ba": (n_a, 1)}
>>> shapes |= {"Wya": (n_y, n_a), "by": (n_y, 1)}
>>> parameters = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
>>> x, a0 = rng.standard_normal((n_x, m, T_x)), np.zeros((n_a, m))
>>> y = np.eye(n_y)[:, rng.integers(n_y, size=(m, T_x))]          # one-hot, (n_y, m, T_x)
>>> a, y_pred, caches = F.rnn_forward(x, a0, parameters)
>>> gradients = F.softmax_output_backward(y, y_pred, a, parameters)
>>> gradients |= F.rnn_backward(gradients["da"], caches)
>>> v, s = F.initialize_adam(parameters)
>>> parameters, v, s = F.update_parameters_with_adam(parameters, gradients, v, s, t=1)
"""

from seqcore.activations import sigmoid, sigmoid_deriv, softmax_deriv, tanh_deriv
from seqcore.functional.adam import initialize_adam, update_parameters_with_adam
from seqcore.functional.lstm import (
    lstm_backward,
    lstm_cell_backward,
    lstm_cell_forward,
    lstm_forward,
)
from seqcore.functional.outputs import cross_entropy_loss_t, softmax, softmax_output_backward
from seqcore.functional.rnn import rnn_backward, rnn_cell_backward, rnn_cell_forward, rnn_forward

__all__ = [
    "cross_entropy_loss_t",
    "initialize_adam",
    "lstm_backward",
    "lstm_cell_backward",
    "lstm_cell_forward",
    "lstm_forward",
    "rnn_backward",
    "rnn_cell_backward",
    "rnn_cell_forward",
    "rnn_forward",
    "sigmoid",
    "sigmoid_deriv",
    "softmax",
    "softmax_deriv",
    "softmax_output_backward",
    "tanh_deriv",
    "update_parameters_with_adam",
]
