"""Template filter for the numbers below a list of several pages."""

from collections.abc import Iterator

from django import template
from django.core.paginator import Page

register = template.Library()


@register.filter
def page_numbers(page: Page[object]) -> Iterator[int | str]:
    """Return the numbers around the current page, the first and the last, and ellipses between."""
    return page.paginator.get_elided_page_range(page.number, on_each_side=2, on_ends=1)
