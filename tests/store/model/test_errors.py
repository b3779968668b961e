"""The tree drawn at the top of the module of errors is the tree of its classes."""

import re

from jobledger.store.model import errors
from jobledger.store.model.errors import JobledgerError

_LINE = re.compile(r"^    ((?:[│ ]   )*)(?:[├└]── )?(\w+)(?: {2,}.*)?$")


def drawn_tree() -> dict[str, str]:
    """The parent of each class in the drawing."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = _LINE.match(line)
        if found is None:
            continue
        depth = len(found[1]) // 4 + (1 if "── " in line else 0)
        parents[found[2]] = path[depth - 1] if depth else ""
        path[depth:] = [found[2]]
    return parents


def public_base(error: type[BaseException]) -> str:
    """The nearest base class with a public name."""
    return next(base.__name__ for base in error.__mro__[1:] if not base.__name__.startswith("_"))


def test_the_drawing_equals_the_classes() -> None:
    """Each public class of the module is drawn below its base class, and no other name is drawn."""
    classes = [
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, JobledgerError) and not each.__name__.startswith("_")
    ]
    expected = {each.__name__: "" if each is JobledgerError else public_base(each) for each in classes}
    assert drawn_tree() == expected
    assert len(expected) > 30
