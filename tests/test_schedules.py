"""How much goes at each level."""

from __future__ import annotations

from typing import Any

import pytest

from pruners import PrunerError
from pruners.schedules import SCHEDULES, cumulative


def test_every_level_takes_its_share_of_what_is_left() -> None:
    assert cumulative("exponential", 5, 3) == pytest.approx((5, 9.75, 14.2625))


def test_the_others_by_hand() -> None:
    assert cumulative("linear", 5, 4, final=40) == pytest.approx((10, 20, 30, 40))
    # (1 - cos(pi / 4)) / 2 of 40, half of it, and the rest.
    assert cumulative("cosine", 5, 4, final=40) == pytest.approx((5.857864, 20, 34.142136, 40))
    # 40 (1 - (3/4)^3), 40 (1 - 1/8), 40 (1 - 1/64).
    assert cumulative("cubic", 5, 4, final=40) == pytest.approx((23.125, 35, 39.375, 40))


@pytest.mark.parametrize("name", SCHEDULES)
def test_all_end_alike_and_never_turn_back(name: str) -> None:
    levels = cumulative(name, 8, 10)
    assert len(levels) == 10
    assert list(levels) == sorted(levels)
    assert levels[-1] == pytest.approx(100 * (1 - 0.92**10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "cubical"}, r"^--schedule cubical: unknown; did you mean cubic\?; expected"),
        ({"step": 0}, r"^--step 0: expected percent, above 0 and below 100$"),
        ({"step": 100}, r"^--step 100: expected percent"),
        ({"levels": 0}, r"^--levels 0: expected 1 or more$"),
        ({"final": 50}, r"^--final 50: only for the schedules linear, cosine, cubic; with expone"),
        ({"schedule": "linear", "final": 100}, r"^--final 100: expected percent, above 0 and bel"),
    ],
)
def test_what_is_no_schedule(options: dict[str, Any], message: str) -> None:
    with pytest.raises(PrunerError, match=message):
        cumulative(**{"schedule": "exponential", "step": 5, "levels": 3, **options})
