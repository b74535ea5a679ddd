import pytest

from mpitile.kernels import _gemm


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("a_transposed", [False, True])
@pytest.mark.parametrize("b_transposed", [False, True])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_row_major_semantics(tools, dtype, a_transposed, b_transposed, beta):
    draw = tools.draw(1, dtype)
    a, b, c = draw.array(4, 7), draw.array(7, 5), draw.array(4, 5)
    expected = a @ b + beta * c
    stored_a = a.T.copy() if a_transposed else a
    stored_b = b.T.copy() if b_transposed else b
    _gemm.gemm_repeated(stored_a, stored_b, c, a_transposed, b_transposed, beta, 1)
    tools.close(c, expected, dtype)
