"""The training step's own operations: kernels against plain torch in float64, and that by gradcheck."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kserve import _engine
from kserve.kmatrix import cpu
from kserve.train import ops, torch_ops
from kserve.train.packing import Packing, pack_ids

CPU = torch.device("cpu")
# Largest error over the largest value: some tens of roundings of float32, a few of bfloat16.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 2e-2}
LENGTHS = [3, 1, 17, 0, 8]


@pytest.fixture(params=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return getattr(torch, request.param)


@pytest.fixture(params=[1, 2], ids=["t1", "t2"])
def kernels(request: pytest.FixtureRequest, isa: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operations run on each instruction set and on one or two threads."""
    chosen = _engine.training.Kernels(isa, request.param)
    monkeypatch.setattr("kserve.train.cpu_ops.kernels", lambda: chosen)
    monkeypatch.setattr("kserve.kmatrix.cpu.kernels", lambda: chosen)


WIDTHS = {"scalar": "scalar", "avx2": "avx2"} | dict.fromkeys(("avx512", "avx512vnni", "amx"), "avx512")


def test_kernels_are_as_wide_as_the_instruction_set_allows(isa: str) -> None:
    assert _engine.training.Kernels(isa).isa == WIDTHS[isa]
    assert _engine.training.Kernels().isa == WIDTHS[_engine.available_isas()[0]]


def packing(lengths: Sequence[int] = LENGTHS, rows: int = 32) -> Packing:
    """Sentences with a few rows after the last."""
    made = Packing.of_lengths(lengths, CPU)
    return Packing(made.offsets, max(rows, made.rows), CPU)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_near(got: Tensor, wanted: Tensor, tolerance: float) -> None:
    scale = wanted.detach().abs().max().item() + 1e-30
    assert got.shape == wanted.shape
    assert (got.detach().double() - wanted.detach()).abs().max().item() / scale < tolerance


Operation = Callable[..., Any]


def compare(operation: Operation, dtypes: Sequence[torch.dtype], *inputs: Tensor) -> None:
    """Results and gradients of kernels against the same in float64, where torch_ops compute."""
    low = [x.to(dtype).requires_grad_() for x, dtype in zip(inputs, dtypes, strict=True)]
    exact = [x.detach().double().requires_grad_() for x in low]
    got, wanted = operation(*low), operation(*exact)
    got, wanted = (value if isinstance(value, tuple) else (value,) for value in (got, wanted))
    tolerance = max(TOLERANCE[dtype] for dtype in dtypes)
    grads = [random(*y.shape, seed=9 + i) for i, y in enumerate(got)]
    for ours, theirs in zip(got, wanted, strict=True):
        assert_near(ours, theirs, tolerance)
    found = torch.autograd.grad(got, low, [g.to(y.dtype) for g, y in zip(grads, got, strict=True)])
    reference = torch.autograd.grad(
        wanted, exact, [g.to(y.dtype).double() for g, y in zip(grads, got, strict=True)]
    )
    for ours, theirs in zip(found, reference, strict=True):
        assert_near(ours, theirs, tolerance)


@pytest.mark.parametrize("d", [3, 16, 37, 256])
def test_add_norm_equals_torch(kernels: None, dtype: torch.dtype, d: int) -> None:
    def operation(x: Tensor, y: Tensor, gain: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        norm: Any = SimpleNamespace(weight=gain, bias=bias, eps=1e-5, normalized_shape=(d,))
        return ops.add_norm(x, y, 0.0, norm, y.dtype)

    single = torch.float32
    compare(
        operation,
        (single, dtype, single, single),
        random(9, d),
        random(9, d, seed=1),
        random(d),
        random(d, seed=2),
    )


@pytest.mark.parametrize("d", [1, 16, 37])
def test_gates_equal_torch(kernels: None, dtype: torch.dtype, d: int) -> None:
    compare(ops.glu, [dtype], 3 * random(9, 2 * d))
    compare(lambda x: ops.relu_(x.clone()), [dtype], random(9, d))


@pytest.mark.parametrize(
    "taps", [(1, 0), (3, 1), (7, 6), (5, 4), (31, 15)], ids=lambda taps: f"k{taps[0]}l{taps[1]}"
)
@pytest.mark.parametrize("head_dim", [3, 16, 80])
def test_convolution_equals_torch(
    kernels: None, dtype: torch.dtype, taps: tuple[int, int], head_dim: int
) -> None:
    window, sentences = ops.Window(2, *taps), packing()
    compare(
        lambda x, scores: ops.convolve(x, scores, sentences, window),
        (dtype, dtype),
        random(sentences.rows, 2 * head_dim),
        random(sentences.rows, 2 * taps[0], seed=1),
    )


@pytest.mark.parametrize("head_dim", [3, 16, 80])
def test_attention_equals_torch(kernels: None, dtype: torch.dtype, head_dim: int) -> None:
    target, source = packing(), packing([5, 2, 1, 4, 11], 25)
    compare(
        lambda query, key, value: ops.attend(query, (key, value), target, source, 2),
        (dtype,) * 3,
        random(target.rows, 2 * head_dim),
        random(source.rows, 2 * head_dim, seed=1),
        random(source.rows, 2 * head_dim, seed=2),
    )


def test_embedding_equals_torch(kernels: None) -> None:
    ids = torch.tensor([4, 0, 4, 7, 2], dtype=torch.int32)
    places = torch.tensor([0, 1, 2, 0, 0], dtype=torch.int32)
    positions = random(6, 20, seed=1)
    compare(
        lambda table: ops.embed(table, ids, positions.to(table.dtype), places, 0.0),
        [torch.float32],
        random(8, 20),
    )


def loss(hidden: Tensor, table: Tensor, target: Tensor) -> Tensor:
    result: Tensor = ops.SmoothedCrossEntropy.apply(hidden, table, target, 0.1, 0.25)[0]
    return result


@pytest.mark.parametrize("vocabulary", [5, 16, 133])
def test_cross_entropy_equals_torch(kernels: None, dtype: torch.dtype, vocabulary: int) -> None:
    target = torch.randint(-1, vocabulary, (40,), generator=torch.Generator().manual_seed(1)).to(torch.int32)
    hidden, table = random(40, 24).to(dtype).requires_grad_(), random(vocabulary, 24, seed=1).requires_grad_()
    exact = [x.detach().double().requires_grad_() for x in (hidden, table)]
    wanted = 0.25 * functional.cross_entropy(
        exact[0] @ exact[1].t(), target.long(), ignore_index=-1, label_smoothing=0.1, reduction="sum"
    )
    got = loss(hidden, table, target)
    assert_near(got, wanted, TOLERANCE[dtype])
    for ours, theirs in zip(
        torch.autograd.grad(2 * got, (hidden, table)), torch.autograd.grad(2 * wanted, exact), strict=True
    ):
        assert_near(ours, theirs, 2 * TOLERANCE[dtype])


@pytest.mark.parametrize("rows", [1, 3, 2050])
def test_cross_entropy_in_float64_equals_torch(rows: int) -> None:
    target = torch.randint(-1, 11, (rows,), generator=torch.Generator().manual_seed(1)).to(torch.int32)
    target[0] = 4
    hidden, table = (random(n, 8, seed=n).double().requires_grad_() for n in (rows, 11))
    value, totals = ops.SmoothedCrossEntropy.apply(hidden, table, target, 0.1, 1.0)
    scores, long = hidden @ table.t(), target.long()
    wanted = functional.cross_entropy(scores, long, ignore_index=-1, label_smoothing=0.1, reduction="sum")
    torch.testing.assert_close(totals[0], wanted)
    torch.testing.assert_close(
        totals[1], functional.cross_entropy(scores, long, ignore_index=-1, reduction="sum")
    )
    ours = torch.autograd.grad(value, (hidden, table))
    torch.testing.assert_close(ours, torch.autograd.grad(wanted, (hidden, table)), rtol=1e-6, atol=1e-6)


def slow_convolution(x: Tensor, scores: Tensor, lengths: Sequence[int], window: ops.Window) -> Tensor:
    """The definition, position by position."""
    y = torch.zeros_like(x)
    by_head = x.view(len(x), window.heads, -1)
    shares = scores.view(len(x), window.heads, window.taps).softmax(-1)
    start = 0
    for length in lengths:
        for t in range(length):
            for j in range(window.taps):
                if 0 <= t + j - window.left < length:
                    part = shares[start + t, :, j, None] * by_head[start + t + j - window.left]
                    y[start + t] += part.flatten()
        start += length
    return y


@pytest.mark.parametrize(
    "sizes", [(1, 1), (16, 16), (37, 19), (64, 150)], ids=lambda sizes: f"{sizes[0]}x{sizes[1]}"
)
def test_transposing_is_exact(kernels: None, dtype: torch.dtype, sizes: tuple[int, int]) -> None:
    x = random(*sizes).to(dtype)
    assert torch.equal(cpu.transposed(x), x.t())


@pytest.mark.parametrize("taps", [(1, 0), (3, 1), (7, 6), (31, 15)], ids=lambda taps: f"k{taps[0]}l{taps[1]}")
def test_convolution_in_torch_equals_its_definition(taps: tuple[int, int]) -> None:
    window, lengths = ops.Window(3, *taps), [4, 1, 9]
    x, scores = random(16, 6).double().requires_grad_(), random(16, 3 * taps[0]).double().requires_grad_()
    sentences = packing(lengths, 16)
    torch.testing.assert_close(
        torch_ops.convolve(x, scores, sentences, (3, *taps)), slow_convolution(x, scores, lengths, window)
    )
    assert torch.autograd.gradcheck(lambda a, b: ops.convolve(a, b, sentences, window), (x, scores))


def test_attention_in_torch_passes_gradcheck() -> None:
    target, source = packing([2, 3], 6), packing([4, 1], 5)
    inputs = [random(rows, 4).double().requires_grad_() for rows in (6, 5, 5)]
    assert torch.autograd.gradcheck(lambda q, k, v: ops.attend(q, (k, v), target, source, 2), inputs)


def dropped(p: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Ones after dropout, by the residual step of zeros."""
    rows, d = 1000, 1000
    x, y = torch.zeros(rows, d), torch.ones(rows, d, dtype=dtype)
    return ops.add_norm(x, y, p, nn.LayerNorm(d), dtype)[0]


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_keeps_the_mean_and_drops_the_share(kernels: None, p: float) -> None:
    torch.manual_seed(0)
    y = dropped(p)
    assert set(y.unique().tolist()) == {0.0, torch.tensor(1 / (1 - p)).item()}
    assert (y == 0).float().mean().item() == pytest.approx(p, abs=0.002)
    assert not torch.equal(y, dropped(p)), "two calls draw different numbers"


def test_dropout_does_not_depend_on_the_instruction_set() -> None:
    masks = []
    for isa in _engine.available_isas():
        total = np.zeros((7, 100), np.float32)
        arrays = (np.zeros((7, 100), np.float32), np.ones((7, 100), np.float32))
        norm = (np.ones(100, np.float32), np.zeros(100, np.float32), 1e-5)
        outputs = (total, np.zeros((7, 100), np.float32), np.zeros((7, 2), np.float32))
        _engine.training.Kernels(isa, 1).add_norm(arrays, (77, 0.3), norm, outputs)
        masks.append(total)
    assert all(np.array_equal(mask, masks[0]) for mask in masks)
    assert 0.2 < (masks[0] == 0).mean() < 0.4


def test_neighbours_in_a_mask_are_independent() -> None:
    """Shares of the four cases of a number and the next in its row, and in its column."""
    torch.manual_seed(1)
    zero = (dropped(0.3) == 0).float()
    for left, right in (
        (zero[:, :-1], zero[:, 1:]),
        (zero[:-1], zero[1:]),
        (zero, (dropped(0.3) == 0).float()),
    ):
        assert (left * right).mean().item() == pytest.approx(0.09, abs=0.002)


def test_gradient_drops_what_the_value_dropped(kernels: None, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    y = torch.ones(40, 50, dtype=dtype, requires_grad=True)
    total, _ = ops.add_norm(torch.zeros(40, 50, requires_grad=True), y, 0.4, nn.LayerNorm(50), dtype)
    (grad,) = torch.autograd.grad((total, _), y, (torch.ones_like(total), torch.zeros_like(_)))
    assert torch.equal(grad == 0, total == 0)
    table = torch.ones(4, 50, requires_grad=True)
    ids, zeros = torch.arange(4, dtype=torch.int32), torch.zeros(1, 50)
    x = ops.embed(table, ids, zeros, torch.zeros(4, dtype=torch.int32), 0.4)
    (grad,) = torch.autograd.grad(x.sum(), table)
    assert torch.equal(grad == 0, x == 0)


def test_packing_and_padding_are_inverse() -> None:
    sentences = packing()
    x = random(sentences.rows, 3)
    padded = sentences.pad(x)
    assert padded.shape == (5, 17, 3)
    packed = sentences.pack(padded)
    assert torch.equal(packed[:29], x[:29])
    assert not packed[29:].any()
    ids, found = pack_ids(torch.tensor([[5, 2, 3], [7, 8, 2]]))
    assert ids.tolist() == [5, 2, 7, 8, 2]
    assert found.offsets.tolist() == [0, 2, 5]
    assert found.places.tolist() == [0, 1, 0, 1, 2]


def array(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda k: k.glu(array(2, 6), array(2, 4)), r"u has shape \(2, 6\), expected \(2, 8\)"),
        (lambda k: k.add_rows(array(2, 6), array(4)), "sums has shape"),
        (lambda k: k.loss(array(1, 4), np.array([4], np.int32), 0.1, 1.0), "target 4 is outside"),
        (
            lambda k: k.convolution(
                np.array([0, 9], np.int32), (1, 3, 1), (array(4, 2), array(4, 3)), (array(4, 3), array(4, 2))
            ),
            "offsets must start at 0",
        ),
        (
            lambda k: k.convolution(
                np.array([0, 4], np.int32), (3, 3, 1), (array(4, 2), array(4, 9)), (array(4, 9), array(4, 2))
            ),
            "2 channels cannot have 3 heads",
        ),
        (
            lambda k: k.embed(
                (array(3, 2), array(5, 2)),
                (np.array([3], np.int32), np.array([0], np.int32)),
                (1.0, (0, 0.0)),
                array(1, 2),
            ),
            "token 3 at position 0 is outside a vocabulary of 3",
        ),
        (
            lambda k: k.add_norm(
                (array(1, 2), array(1, 2)),
                (0, 1.0),
                (array(2), array(2), 1e-5),
                (array(1, 2), array(1, 2), array(1, 2)),
            ),
            "dropout probability 1",
        ),
    ],
    ids=["glu", "add-rows", "target", "offsets", "heads", "token", "dropout"],
)
def test_kernels_refuse_wrong_arrays(call: Callable[[Any], None], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(_engine.training.Kernels())


def test_the_tensor_decides_which_form_runs() -> None:
    names = [
        str(ops.glu(random(2, 4).to(t).requires_grad_()).grad_fn) for t in (torch.float32, torch.float64)
    ]
    assert "_GluBackward" in names[0]
    assert "GluBackward0" in names[1]
    assert cpu.usable(random(1).bfloat16())
    assert not cpu.usable(random(1).half())
