"""What a user's layer returns goes on right, or is refused by its name, wherever it stands.

`Wrong` keeps the contract but for one thing that it returns; the tables below say what.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from judging import named
from nestings import links, size
from odd_arrays import odd
from problems import Mean, Scaled, on, recurrent, weights

import seqcore as sc

Change = Callable[[Any], Any]


@dataclass(frozen=True)
class Wrong(Scaled):
    """A layer of a user's own, one of whose results is changed."""

    what: str
    change: Change = field(compare=False)

    name = "wrong"

    def _changed(self, found: dict[str, Any]) -> Any:
        changed = {name: self.change(d) for name, d in found.items() if name == self.what}
        return tuple({**found, **changed}.values())

    def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
        y, _, tape = super().forward(params, x)
        found = {"y": y, "state": (x[..., :1, :],)}
        return *self._changed(found), tape

    def backward(self, params, tape, dy, dstate=None, wrt=None):
        dx, grads, _ = super().backward(params, tape, dy)
        found = {"dx": dx, "dbefore": (dx[..., :1, :],), **grads}
        dx, dbefore, *own = self._changed(found)
        grads = dict(zip(grads, own, strict=True))
        return dx, {name: d for name, d in grads.items() if not isinstance(d, str)}, dbefore

    def bind(self, params, m=1):
        return lambda x, state=None: self.forward(params, x, state)[:2]


def of_any_array(library: Any, array: Any) -> Iterator[tuple[str, Any]]:
    """Yield what no array may be replaced by, with a name."""
    xp = library.xp
    yield from odd(library, array)
    yield "None", None
    yield "list", [1.0]
    yield "number", 1.0
    yield "integers", xp.astype(array, xp.int32)
    yield "batch", xp.concat([array, array], axis=-1)
    if array.dtype != xp.float32:  # not every device has another precision
        yield "single precision", xp.astype(array, xp.float32)


def of_y(library: Any, y: Any) -> Iterator[tuple[str, Any]]:
    """Yield wrong y in place of a right one, over time or of a step."""
    yield from of_any_array(library, y)
    xp = library.xp
    yield "no features", y[..., 0, :] if y.ndim == 2 else y[0, 0, :]
    if y.ndim == 3:
        yield "one step", xp.mean(xp.concat([y, y]), axis=0, keepdims=True)
        yield "no time", xp.mean(y, axis=0)
        yield "twice the time", xp.concat([y, y])
        yield "swapped", xp.permute_dims(xp.concat([y, y]), (2, 1, 0))


def of_gradient(library: Any, array: Any) -> Iterator[tuple[str, Any]]:
    """Yield wrong gradients in place of a right one."""
    yield from of_any_array(library, array)
    yield "one axis less", array[0, ...]
    yield "longer", library.xp.concat([array, array])


def wrongly(make: Any, library: Any, kind: str) -> Change:
    """Return a change of an array into one of a kind."""
    return lambda array: dict(make(library, array))[kind]


@st.composite
def around(draw: Any, inner: Any, most: int = 3) -> Any:
    """Draw a model in which a layer stands somewhere, in containers of containers."""
    for _ in range(draw(st.integers(1, most))):
        if draw(st.booleans()):
            inner = sc.Sharded(inner, draw(st.integers(1, 3)), threads=1)
        else:
            before, behind = (draw(st.lists(links(), max_size=1)) for _ in range(2))
            inner = sc.Sequential(*before, inner, *behind)
    return inner


class Call(NamedTuple):
    """A model and the arguments of its call."""

    model: Any
    params: Any
    x: Any
    given: dict[str, Any]
    draw: dict[str, Any]


def drawn(data: Any, wrong: Any, asarray: Any) -> Call:
    """Draw a model around a layer, and a call of it, over as many steps as features."""
    rng = np.random.default_rng(0)
    model = data.draw(around(wrong))
    n = data.draw(st.integers(2, 3))
    n_steps, m = data.draw(st.sampled_from([n, 2])), data.draw(st.sampled_from([n, 4]))
    params = on(asarray, weights(rng, model, n))
    x = asarray(rng.standard_normal((n_steps, n, m)))
    lengths = {"lengths": [n_steps] * m} if data.draw(st.booleans()) else {}
    return Call(model, params, x, lengths, {"draw": 0} if model.drops else {})


def kinds(make: Any, library: Any, asarray: Any, shape: tuple[int, ...]) -> list[str]:
    """Return the kinds of wrong arrays that there are on a library."""
    return [kind for kind, _ in make(library, asarray(np.ones(shape)))]


@given(data=st.data())
def test_a_wrong_y_is_named_wherever_it_comes_out(data, library, asarray):
    kind = data.draw(st.sampled_from(kinds(of_y, library, asarray, (2, 3, 4))))
    call = drawn(data, Wrong("y", wrongly(of_y, library, kind)), asarray)
    model, params, x, given, draw = call
    for method, run in {
        "forward": lambda: model.forward(params, x, **given, **draw),
        "predict": lambda: model.predict(params, x, **given),
        "bound": lambda: model.bind(params, x.shape[-1]).predict(x, **given),
    }.items():
        with pytest.raises((TypeError, ValueError), match=r"^wrong: y (is|has|was|holds) "):
            pytest.fail(f"{method} takes {kind}: {run()}")


@given(data=st.data())
def test_a_wrong_y_of_a_step_is_named_wherever_it_comes_out(data, library, asarray):
    kind = data.draw(st.sampled_from(kinds(of_y, library, asarray, (3, 4))))
    model = Wrong("y", wrongly(of_y, library, kind))
    for _ in range(data.draw(st.integers(1, 3))):
        tail = data.draw(st.sampled_from([sc.LSTM(2), sc.Dense(2), sc.Last(), sc.Dropout(0.5)]))
        both = sc.Sequential(model), sc.Sharded(model, 2), sc.Sequential(model, tail)
        model = data.draw(st.sampled_from(both))
    params = on(asarray, weights(np.random.default_rng(0), model, 3))
    with pytest.raises((TypeError, ValueError), match=r"^wrong: y (is|has|was|holds) "):
        pytest.fail(f"{kind}: {model.bind(params, 4)(asarray(np.ones((3, 4))))}")


@given(data=st.data())
def test_wrong_gradients_are_named_wherever_they_come_out(data, library, asarray):
    what = data.draw(st.sampled_from(["dx", "w", "b"]))
    found = ["missing", *kinds(of_gradient, library, asarray, (3, 4))]
    kind = data.draw(st.sampled_from([k for k in found if what != "dx" or k != "missing"]))
    change = wrongly(of_gradient, library, kind) if kind != "missing" else lambda _: "missing"
    model, params, x, given, draw = drawn(data, Wrong(what, change), asarray)
    y, _, tape = model.forward(params, x, **given, **draw)
    said = what if what == "dx" else f"gradient {what!r}"
    with pytest.raises((TypeError, ValueError), match=rf"^wrong: {said} (is|has|was|holds) "):
        pytest.fail(f"{kind}: {model.backward(params, tape, y)}")


@given(data=st.data())
def test_a_state_that_cannot_be_computed_with_is_named(data, library, asarray):
    what = data.draw(st.sampled_from(["state", "dbefore"]))
    array = asarray(np.ones((1, 1, 3)))
    found = [kind for kind, _ in odd(library, array)]
    if not found:
        return
    kind = data.draw(st.sampled_from(found))
    wrong = Wrong(what, lambda state: tuple(dict(odd(library, part))[kind] for part in state))
    model, params, x, given, draw = drawn(data, wrong, asarray)
    said = "the state after" if what == "state" else "dL/d(state before)"
    with pytest.raises((TypeError, ValueError), match=rf"^wrong: {re.escape(said)}\.0 "):  # noqa: PT012
        y, _, tape = model.forward(params, x, **given, **draw)
        model.backward(params, tape, y)
        pytest.fail(kind)


@pytest.mark.host
@pytest.mark.parametrize("method", ["forward", "predict", "backward", "a step"])
@pytest.mark.parametrize("found", [None, (), (1,), (1, 2, 3, 4), {}])
def test_a_method_that_returns_something_else_is_named(method, found, monkeypatch):
    model = sc.Sequential(sc.Sequential(Wrong("", id)), sc.Dense(2))
    x = np.ones((4, 3, 5))
    params = model.init(3, like=x, rng=0)
    y, _, tape = model.forward(params, x)
    runs = {
        "forward": lambda: model.forward(params, x),
        "predict": lambda: model.predict(params, x),
        "backward": lambda: model.backward(params, tape, y),
        "a step": lambda: model.bind(params, 5)(x[0]),
    }
    if method == "a step":
        monkeypatch.setattr(Wrong, "bind", lambda *_: lambda *_: found)
    else:
        monkeypatch.setattr(Wrong, method, lambda *_, **__: found)
    with pytest.raises(TypeError, match=rf"^wrong: {method} returned a \w+.*, expected \w+, "):
        runs[method]()


@pytest.mark.host
def test_the_state_of_a_shard_has_its_batch():
    x = np.ones((4, 3, 5))
    params = Scaled().init(3, like=x, rng=0)
    for change in (lambda s: (s[0][..., :1],), lambda s: (s[0][0, 0, 0],), lambda _: {"h": 1}):
        model = sc.Sharded(Wrong("state", change), 2)
        for run in (model.forward, model.predict):
            with pytest.raises((TypeError, ValueError), match=r"^sharded: the state after[. ]"):
                run(params, x)


@pytest.mark.host
@pytest.mark.parametrize("kind", ["masked", "byte order", "float16"])
def test_a_state_given_to_a_users_layer_is_one_to_compute_with(kind, library):
    right = np.ones((2, 1, 5))
    x = np.ones((2, 3, 5))
    params = Scaled().init(3, like=x, rng=0)
    for model in (sc.Sequential(Scaled()), sc.Sharded(Scaled(), 2)):
        own = {f"scaled.{k}": v for k, v in params.items()}
        own = own if isinstance(model, sc.Sequential) else params
        wrong = (dict(odd(library, right))[kind],)
        state = (wrong,) if isinstance(model, sc.Sequential) else wrong
        with pytest.raises(TypeError, match=r"^scaled: state\.0 "):
            model.forward(own, x, state)


# --- what is right goes on as if nothing were nested ----------------------------------------


@dataclass(frozen=True)
class Vectors:
    """A user's layer that takes tokens: an Embedding in other clothes."""

    n_out: int

    name, keeps_time = "embedding", True

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(sc.Embedding(self.n_out), name)


def plain(layer: Any) -> list[Any]:
    """Return the layers of nested containers one after another, with Vectors as Embedding."""
    if isinstance(layer, sc.Sequential):
        return [leaf for inner in layer.layers for leaf in plain(inner)]
    if isinstance(layer, sc.Sharded):
        return plain(layer.layer)
    return [sc.Embedding(layer.n_out) if isinstance(layer, Vectors) else layer]


@given(data=st.data())
def test_a_users_layer_gives_the_same_in_any_nesting(data, asarray, close):
    first = st.one_of(
        st.builds(Vectors, size), st.builds(sc.Embedding, size), st.builds(Scaled), links()
    )
    simple = st.one_of(
        st.builds(Scaled),
        st.builds(sc.Dense, size),
        st.builds(recurrent, st.sampled_from(["rnn-tanh", "gru-after"]), size),
    )
    front = data.draw(first.filter(lambda layer: not layer_drops(layer)))
    ends = data.draw(st.sampled_from([[], [Mean()], [sc.Last()], [Mean(), Scaled(), sc.Dense(2)]]))
    inner = front
    for _ in range(data.draw(st.integers(1, 3))):
        if data.draw(st.booleans()):
            inner = sc.Sharded(inner, data.draw(st.integers(1, 3)), threads=1)
        else:
            inner = sc.Sequential(inner, *data.draw(st.lists(simple, max_size=2)))
    model = sc.Sequential(inner, sc.Sequential(*ends)) if ends else inner
    flat = sc.Sequential(*plain(model))
    n_steps, n, m = 3, data.draw(size), data.draw(size)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    params = on(asarray, weights(rng, model, n))
    own = dict(zip(flat.names(), params.values(), strict=True))
    tokens = isinstance(plain(model)[0], sc.Embedding)
    x = rng.integers(n, size=(n_steps, m)) if tokens else rng.standard_normal((n_steps, n, m))
    x = asarray(x)
    lengths = data.draw(st.none() | st.lists(st.integers(0, 3), min_size=m, max_size=m))
    mask = data.draw(st.sampled_from([None, asarray(rng.random((n_steps, m)) < 0.7)]))

    def results(layer, params):
        y, after, tape = layer.forward(params, x, None, lengths, mask)
        again, _ = layer.predict(params, x, None, lengths, mask)
        close({"y": again}, {"y": y})
        dx, grads, _ = layer.backward(params, tape, y)
        assert list(grads) == list(params)
        states = named("state", after)
        found = [y, *([] if dx is None else [dx]), *grads.values(), *states.values()]
        return {str(number): value for number, value in enumerate(found)}

    close(results(model, params), results(flat, own))


def layer_drops(layer: Any) -> bool:
    """Tell whether a layer drops, whose masks depend on its place."""
    return getattr(layer, "drops", False)


@pytest.mark.parametrize(
    "model",
    [
        sc.Sequential(Vectors(3), sc.LSTM(2)),
        sc.Sequential(sc.Sequential(Vectors(3)), sc.LSTM(2), Scaled()),
        sc.Sequential(sc.Sharded(Vectors(3), 2), sc.Sequential(sc.Dropout(0.5), sc.LSTM(2))),
    ],
)
def test_a_step_takes_tokens_of_a_users_layer(model, asarray, close, rng):
    params = on(asarray, weights(rng, model, 5))
    tokens = asarray(rng.integers(5, size=(4, 3)))
    y, _ = model.predict(params, tokens)
    bound, state = model.bind(params, 3), None
    for t in range(4):
        step, state = bound(tokens[t, ...], state)
        close({"y": step}, {"y": y[t, ...]})


@pytest.mark.parametrize("wrap", [lambda u: u, sc.Sequential, lambda u: sc.Sharded(u, 2)])
@pytest.mark.parametrize("tail", [sc.Last(), sc.LSTM(2), sc.Sequential(sc.Dropout(0.0), sc.Last())])
def test_what_needs_time_is_refused_behind_a_users_layer_that_ends_it(wrap, tail, asarray):
    x = asarray(np.ones((4, 3, 5)))
    for inner in (wrap(Mean()), wrap(sc.Sequential(sc.LSTM(2), Mean()))):
        model = sc.Sequential(inner, tail)
        params = model.init(3, like=x, rng=0)
        name = tail.layers[-1].name if isinstance(tail, sc.Sequential) else tail.name
        for run in (model.forward, model.predict):
            with pytest.raises(ValueError, match=rf"^{name}: x has shape .*, expected time first"):
                run(params, x, lengths=[1, 2, 3, 4, 4])


@dataclass(frozen=True)
class Wider(Scaled):
    """A user's layer that doubles the features, and does not say so."""

    name = "wider"

    def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
        xp = sc.arrays.namespace(x)
        return xp.concat([x, x], axis=-2), (), ()

    def bind(self, params, m=1):
        return lambda x, _=None: self.forward(params, x)[:2]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tail: sc.Sequential(Wider(), tail),
        lambda tail: sc.Sequential(Wider(), sc.Dropout(0.0), tail),
        lambda tail: sc.Sequential(sc.Sequential(Wider(), sc.Dropout(0.0)), tail),
        lambda tail: sc.Sequential(sc.Dense(3), sc.Sharded(Wider(), 2), sc.Sequential(tail)),
    ],
)
@pytest.mark.parametrize("tail", [sc.Dense(2), sc.GRU(2)])
def test_features_behind_a_users_layer_are_checked_once_they_are_known(wrap, tail, asarray, rng):
    model = wrap(tail)
    x = asarray(rng.standard_normal((4, 3, 5)))
    params = on(asarray, weights(rng, model, 3))
    for run in (model.forward, model.predict, model.bind(params, 5).predict):
        given = (params, x) if run in (model.forward, model.predict) else (x,)
        with pytest.raises(ValueError, match=rf"^{tail.name}: x has shape "):
            run(*given)


@pytest.mark.host
def test_what_a_user_does_not_say_of_features_is_not_held_against_who_is_behind(rng):
    x = rng.standard_normal((4, 3, 5))
    for inner in (sc.Sequential(sc.Dense(3), Wider()), sc.Sharded(Wider(), 2), Wider()):
        model = sc.Sequential(sc.Dense(3), inner, tail=sc.Dense(2))
        params = weights(rng, model, 3) | {"tail.W": rng.standard_normal((2, 6))}
        assert model.forward(params, x)[0].shape == (4, 2, 5)
        assert model.bind(params, 5)(x[0])[0].shape == (2, 5)


@dataclass(frozen=True)
class Table(Scaled):
    """A user's layer that takes tokens and has no parameters: only who is behind knows a dtype."""

    name = "table"

    def shapes(self):
        return {}

    def forward(self, params, x, state=None, lengths=None, mask=None, draw=None):
        y = np.ones((3, x.shape[-1]), dtype=np.float32)
        return (y if x.ndim == 1 else np.stack([y] * x.shape[0])), (), ()

    def bind(self, params, m=1):
        return lambda x, _=None: self.forward(params, x)[:2]


@pytest.mark.host
@pytest.mark.parametrize("wrap", [lambda u: u, sc.Sequential, lambda u: sc.Sharded(u, 2)])
def test_precisions_that_only_meet_behind_a_users_layer_are_not_mixed(wrap, rng):
    tokens = np.zeros((4, 5), dtype=np.int64)
    for tail in (sc.Dense(2), sc.Sequential(sc.Dropout(0.0), sc.LSTM(2))):
        model = sc.Sequential(wrap(Table()), sc.Dropout(0.0), tail)
        params = weights(rng, model, 3)
        bound = model.bind(params, 5)
        for run, call in (
            (model.forward, (params, tokens)),
            (model.predict, (params, tokens)),
            (bound, (tokens[0],)),
        ):
            with pytest.raises(TypeError, match=r"has dtype float64, expected float32 like x"):
                run(*call)
