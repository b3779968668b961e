"""The cache stays within its bounds, and removes what was used least recently."""

from hypothesis import given, strategies as st

from jobledger.store.lru import LRUCache


def _cache(max_bytes: int = 10, max_entries: int = 100) -> LRUCache[str, str]:
    return LRUCache(max_bytes, len, max_entries=max_entries)


def test_the_least_recently_used_is_removed_first() -> None:
    """A get counts as a use; a peek does not."""
    cache = _cache(max_bytes=3)
    for key in "abc":
        cache.put(key, "x")
    assert cache.get("a") == "x"
    assert cache.peek("b") == "x"
    cache.put("d", "x")
    assert [*cache] == ["c", "a", "d"]
    assert "b" not in cache
    assert cache.get("b") is None
    assert cache.peek("b") is None


def test_a_value_larger_than_the_cache_is_not_kept() -> None:
    """And removes nothing but the value that it replaces."""
    cache = _cache()
    cache.put("a", "x")
    cache.put("b", "x")
    cache.put("a", "x" * 11)
    assert ([*cache], cache.size_bytes) == (["b"], 1)


def test_evictions_are_reported() -> None:
    """Only those for lack of room, not what is replaced or removed."""
    evicted: list[str] = []
    cache = LRUCache[str, str](4, len, on_evict=evicted.append)
    cache.put("a", "xx")
    cache.put("a", "x")
    cache.put("b", "xx")
    cache.put("c", "xx")
    assert evicted == ["a"]
    assert cache.pop("b") == "xx"
    cache.clear()
    assert (evicted, len(cache), cache.size_bytes) == (["a"], 0, 0)


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.one_of(st.none(), st.text("x", max_size=12))), max_size=60
    )
)
def test_the_bounds_hold_after_any_calls(calls: list[tuple[str, str | None]]) -> None:
    """None reads a key, text writes one: never more bytes or values than allowed, and the size is exact."""
    cache = _cache(max_entries=3)
    for key, value in calls:
        if value is None:
            cache.get(key)
        else:
            cache.put(key, value)
        kept = [cache.peek(key) or "" for key in cache]
        assert cache.size_bytes == sum(map(len, kept)) <= 10
        assert len(cache) <= 3
