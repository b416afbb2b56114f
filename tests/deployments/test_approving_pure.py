"""Which fixes ``runbook approve ID --only WORD`` approves: those it names in whole, and never one more."""

from __future__ import annotations

import pytest

from deployments.approving import chosen
from runbook.errors import BadSetting

ONE = "account user_1 unlock_account 3f9c2a71b04d1111"
TWELVE = "account user_12 unlock_account 1111111111111111"
MONEY = "Invoice/in_1 retry_payment 00000000000000a1"
ROWS = [ONE, TWELVE, MONEY]


@pytest.mark.parametrize(
    ("only", "kept"),
    [
        ([], ROWS),
        (["account user_1"], [ONE]),
        (["Invoice/in_1"], [MONEY]),
        (["unlock_account"], [ONE, TWELVE]),
        (["00000000000000a1"], [MONEY]),
        (["retry_payment", "account user_1"], [ONE, MONEY]),
    ],
)
def test_a_whole_target_action_or_key_names_a_fix(only: list[str], kept: list[str]) -> None:
    assert chosen(ROWS, only) == kept


@pytest.mark.parametrize("part", ["1", "user_1", "a1", "in_1", "unlock", "account", "", "retry_payment "])
@pytest.mark.parametrize("beside", [[], ["account user_1"]])
def test_a_part_of_one_names_none_and_the_choices_are_told(part: str, beside: list[str]) -> None:
    with pytest.raises(BadSetting) as error:
        chosen(ROWS, [*beside, part])
    assert "Invoice/in_1 | retry_payment | 00000000000000a1" in str(error.value)
