"""Every loss against a slow, obvious oracle, in value and gradient."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medood.distillation import losses as loss


def slow_positive(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """A loop over pairs and images, as the paper writes it."""
    total, pairs = torch.zeros((), dtype=student.dtype), 0
    for t in range(len(teacher)):
        for s in range(len(student)):
            if s == t:
                continue
            pairs += 1
            for b in range(student.shape[1]):
                q = torch.exp(student[s, b] / temperature)
                total = total - (teacher[t, b] * torch.log(q / q.sum())).sum()
    return total / (pairs * student.shape[1])


def slow_negative(student: Tensor, temperature: float) -> Tensor:
    total = torch.zeros((), dtype=student.dtype)
    for row in student:
        q = torch.exp(row / temperature)
        q = q / q.sum()
        total = total + sum((1 / len(q)) * torch.log((1 / len(q)) / value) for value in q)
    return total / len(student)


@pytest.mark.parametrize("globals_", [2, 3])
@pytest.mark.parametrize("views", [3, 5])
@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize(("cool", "warm"), [(0.01, 0.1), (0.04, 0.1), (1.0, 1.0)])
def test_positive_loss_against_the_loop(globals_: int, views: int, batch: int, cool: float, warm: float) -> None:
    generator = torch.Generator().manual_seed(views * batch)
    outputs = torch.rand(globals_, batch, 7, generator=generator) * 2 - 1
    teacher = loss.teacher_distribution(outputs, torch.rand(7, generator=generator), cool)
    fast = (torch.rand(views, batch, 7, generator=generator) * 2 - 1).requires_grad_(True)
    slow = fast.detach().double().requires_grad_(True)
    value = loss.positive_loss(teacher, fast, warm)
    expected = slow_positive(teacher.double(), slow, warm)
    value.backward()
    expected.backward()
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    torch.testing.assert_close(fast.grad.double(), slow.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("warm", [0.1, 0.5])
def test_negative_loss_against_the_loop(warm: float) -> None:
    fast = (torch.rand(5, 9, generator=torch.Generator().manual_seed(0)) * 2 - 1).requires_grad_(True)
    slow = fast.detach().double().requires_grad_(True)
    value, expected = loss.negative_loss(fast, warm), slow_negative(slow, warm)
    value.backward()
    expected.backward()
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    torch.testing.assert_close(fast.grad.double(), slow.grad, atol=1e-6, rtol=1e-4)


def test_limits() -> None:
    assert float(loss.negative_loss(torch.full((4, 11), 0.3), 0.1)) == pytest.approx(0, abs=1e-6)
    uniform = torch.full((2, 3, 11), 1 / 11)
    assert float(loss.positive_loss(uniform, torch.zeros(4, 3, 11), 0.1)) == pytest.approx(math.log(11), rel=1e-5)
    one = torch.zeros(2, 3, 11)
    one[..., 4] = 1
    assert float(loss.positive_loss(one, 100 * one.repeat(2, 1, 1), 0.1)) == pytest.approx(0, abs=1e-6)


def test_the_loss_is_float32_inside_autocast() -> None:
    teacher = loss.teacher_distribution(torch.rand(2, 3, 8).bfloat16(), torch.zeros(8), 0.04)
    value = loss.positive_loss(teacher, torch.rand(4, 3, 8).bfloat16(), 0.1)
    assert teacher.dtype == value.dtype == torch.float32


def test_teacher_gets_no_gradient() -> None:
    outputs = torch.rand(2, 3, 8, requires_grad=True)
    assert not loss.teacher_distribution(outputs, torch.zeros(8), 0.04).requires_grad


def test_center_is_an_ema() -> None:
    center = loss.update_center(torch.ones(3), torch.zeros(3), 0.9)
    torch.testing.assert_close(center, torch.full((3,), 0.9))


def test_entropy() -> None:
    torch.testing.assert_close(loss.entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]])), torch.tensor([math.log(2), 0.0]))


def test_sinkhorn_against_a_slow_loop_and_shares_the_prototypes_evenly() -> None:
    outputs = torch.randn(24, 6, generator=torch.Generator().manual_seed(0))
    found = loss.sinkhorn_distribution(outputs, 0.1, rounds=3)
    slow = [[math.exp(float(value) / 0.1) for value in row] for row in outputs]
    for _ in range(3):
        columns = [sum(row[k] for row in slow) for k in range(6)]
        slow = [[value / columns[k] for k, value in enumerate(row)] for row in slow]
        slow = [[value / sum(row) for value in row] for row in slow]
    torch.testing.assert_close(found, torch.tensor(slow), rtol=1e-4, atol=1e-6)
    even = loss.sinkhorn_distribution(outputs, 0.1, rounds=200).mean(dim=0)
    torch.testing.assert_close(even, torch.full((6,), 1 / 6), atol=1e-3, rtol=0)


def test_koleo_against_a_slow_loop_and_falls_as_points_spread() -> None:
    points = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    unit = points / points.norm(dim=1, keepdim=True)
    slow = -sum(math.log(min(float((unit[i] - unit[j]).norm()) for j in range(9) if j != i) + 1e-8) for i in range(9)) / 9
    assert float(loss.koleo_loss(points)) == pytest.approx(slow, rel=1e-4)
    close = torch.ones(9, 4) + 0.01 * points
    assert float(loss.koleo_loss(close)) > float(loss.koleo_loss(points))
