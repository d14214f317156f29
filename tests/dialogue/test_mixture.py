import warnings
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlrp.dialogue import mix, plan_mixture
from rlrp.errors import UserError

ROLE_PLAY = [f"r{i}" for i in range(108)]
GENERAL = [f"g{i}" for i in range(60)]


def counts(mixed: list[str]) -> tuple[int, int]:
    general = sum(item.startswith("g") for item in mixed)
    return len(mixed) - general, general


def test_a_quarter_of_the_total_is_general():
    # 108 * 0.25 / 0.75 = 36, and 36 of 144 is a quarter
    mixed = mix(ROLE_PLAY, GENERAL, 0.25, seed=0)
    assert counts(mixed) == (108, 36)
    assert max(Counter(mixed).values()) == 1


def test_too_few_general_examples_repeat_evenly():
    # 36 wanted of 10: six of them four times, four three times
    mixed = mix(ROLE_PLAY, GENERAL[:10], 0.25, seed=0)
    seen = Counter(item for item in mixed if item.startswith("g"))
    assert sorted(seen.values()) == [3, 3, 3, 3, 4, 4, 4, 4, 4, 4]
    assert plan_mixture(108, 10, 0.25).repeats == 3.6
    assert "3.60 times" in str(plan_mixture(108, 10, 0.25))


def test_the_repeat_count_is_logged(caplog: pytest.LogCaptureFixture):
    with caplog.at_level("INFO"):
        mix(ROLE_PLAY, GENERAL[:10], 0.25, seed=0)
    assert "108 role-play + 36 general = 144 examples (25% general" in caplog.text


def test_seed_decides_the_order_and_the_choice():
    first = mix(ROLE_PLAY, GENERAL, 0.25, seed=1)
    assert first == mix(ROLE_PLAY, GENERAL, 0.25, seed=1)
    assert first != mix(ROLE_PLAY, GENERAL, 0.25, seed=2)
    assert first[:108] != ROLE_PLAY  # general examples are spread, not appended


@pytest.mark.parametrize(("share", "words"), [(0.0, "not rehearsed"), (0.1, "may not be enough"), (0.4, "dilutes")])
def test_unusual_shares_warn_at_the_caller(share: float, words: str):
    with pytest.warns(UserWarning, match=words) as caught:
        mix(ROLE_PLAY, GENERAL, share, seed=0)
    assert [warning.filename for warning in caught] == [__file__]
    assert "\n" not in str(caught[0].message)


@pytest.mark.parametrize("share", [0.2, 0.25, 0.3])
def test_usual_shares_do_not_warn(share: float):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mix(ROLE_PLAY, GENERAL, share, seed=0)


@pytest.mark.parametrize("share", [0.51, 1.0, -0.1, float("nan")])
def test_impossible_shares_are_refused(share: float):
    with pytest.raises(UserError) as error:
        mix(ROLE_PLAY, GENERAL, share, seed=0)
    assert error.value.place == "sft.general_share"


def test_nothing_to_mix_is_refused():
    with pytest.raises(UserError, match="no role-play"):
        mix([], GENERAL, 0.25, seed=0)
    with pytest.raises(UserError, match="no general examples"):
        mix(ROLE_PLAY, [], 0.25, seed=0)


@given(st.integers(1, 200), st.integers(1, 50), st.floats(0, 0.5), st.integers())
def test_every_role_play_example_comes_once_and_general_ones_evenly(r: int, g: int, share: float, seed: int):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mixed = mix([f"r{i}" for i in range(r)], [f"g{i}" for i in range(g)], share, seed)
    seen = Counter(mixed)
    assert all(seen[f"r{i}"] == 1 for i in range(r))
    general = [seen[f"g{i}"] for i in range(g)]
    assert max(general) - min(general) <= 1
    assert sum(general) <= r  # never more than half
    assert abs(sum(general) - share * len(mixed)) <= 0.5
