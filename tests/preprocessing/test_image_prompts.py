import numpy as np
import pytest

from gmijax.preprocessing import expand_placeholders, llava_prompt, prismatic_prompt


def test_prompts_of_the_paper():
    assert llava_prompt() == "<image>\nDescribe this image."
    assert prismatic_prompt().endswith(" questions. USER: Describe this image. ASSISTANT:")


def test_placeholders_are_expanded_in_order():
    np.testing.assert_array_equal(expand_placeholders([1, 9, 2, 9], 9, [3, 1]), [1, 9, 9, 9, 2, 9])
    np.testing.assert_array_equal(expand_placeholders([9, 1], 9, [0]), [1])
    np.testing.assert_array_equal(expand_placeholders([1, 2], 9, []), [1, 2])


@pytest.mark.parametrize(
    ("ids", "counts", "message"),
    [
        ([1, 9], [1, 2], r"hold 1 placeholders \(id 9\); give one row with 2"),
        ([[9]], [1], r"shape \(1, 1\)"),
        ([9], [-1], "must not be negative"),
    ],
)
def test_counts_are_checked(ids, counts, message):
    with pytest.raises(ValueError, match=message):
        expand_placeholders(np.array(ids), 9, counts)
