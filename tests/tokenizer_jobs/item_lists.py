"""Lists of items for property tests: strange names, missing facts, and recordings with several items."""

from hypothesis import strategies as st

from tokenizer_jobs.records import Item

names = st.text(st.characters(codec="utf-8"), max_size=8)
few_names = st.sampled_from(["a", "b", "é", "\U0001f3b5", "\uffff"])

item_lists = st.lists(
    st.builds(
        Item,
        id=names,
        source_uri=few_names | names,
        source_member=st.none() | st.sampled_from(["", "m"]) | names,
        source_row=st.none() | st.sampled_from([0, 1]) | st.integers(0, 1 << 40),
        source_size=st.none() | st.integers(0, 1 << 40),
        source_etag=st.none() | names,
        estimated_seconds=st.floats(0, 1e5) | st.just(float("inf")),
    ),
    max_size=30,
    unique_by=lambda item: item.id,
)
