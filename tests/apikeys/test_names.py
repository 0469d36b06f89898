"""Valid names, in any script."""

from hypothesis import example, given
from hypothesis import strategies as st

from apikeys.models import MAX_FOLDED, MAX_NAME
from core.text import fold, has_controls, is_visible, tidy


@given(st.text())
def test_tidying_twice_is_tidying_once(text):
    assert tidy(tidy(text)) == tidy(text)


@given(st.text(max_size=MAX_NAME))
@example("\ufb03" * MAX_NAME)
@example("\u0390" * MAX_NAME)
@example("\U0001d160" * MAX_NAME)
def test_a_folded_name_fits_its_column(text):
    assert len(fold(text)) <= MAX_FOLDED


@given(st.text())
def test_names_that_differ_in_case_alone_fold_the_same(text):
    assert fold(text) == fold(text.casefold())


def test_an_emoji_made_of_several_characters_is_a_name():
    assert is_visible("👩‍💻")
    assert not has_controls("👩‍💻")
