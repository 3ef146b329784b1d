"""Tell what built-in functions that take values of any type do with them: which of the types' own code they run.

Each such function is listed, for all versions (catalog/pg_proc.dat): of any other one nobody knows.
"""

from __future__ import annotations

from collections.abc import Sequence

from proxy.sql.resolve import oids
from proxy.sql.resolve.coercion import Coercion
from proxy.sql.resolve.world import Function

_FIRST_NORMAL_OID = 16384
OF_ANY_TYPE = oids.POLYMORPHIC | {oids.ANY, oids.RECORD, oids.RECORD_ARRAY}
_NOTHING = """array_append array_cat array_dims array_fill array_length array_lower array_ndims array_prepend
array_reverse array_sample array_shuffle array_to_string array_upper any_value any_value_transfn cardinality concat
concat_ws count enum_first enum_last enum_range first_value format generate_subscripts int8dec_any int8inc_any isempty
lag last_value lead lower lower_inc lower_inf nth_value num_nonnulls num_nulls pg_collation_for pg_column_compression
pg_column_size pg_column_toast_chunk_id pg_typeof trim_array unnest upper upper_inc upper_inf"""
"""At most they write values out."""
_COMPARE = """array_eq array_ge array_gt array_larger array_le array_lt array_ne array_position array_positions
array_remove array_replace array_smaller array_sort arraycontained arraycontains arrayoverlap btarraycmp btrecordcmp
btrecordimagecmp cume_dist dense_rank elem_contained_by_multirange elem_contained_by_range enum_cmp enum_eq enum_ge
enum_gt enum_larger enum_le enum_lt enum_ne enum_smaller hash_array hash_array_extended hash_multirange
hash_multirange_extended hash_range hash_range_extended hash_record hash_record_extended hashenum hashenumextended max
min mode multirange multirange_adjacent_multirange multirange_adjacent_range multirange_after_multirange
multirange_after_range multirange_before_multirange multirange_before_range multirange_cmp
multirange_contained_by_multirange multirange_contained_by_range multirange_contains_elem
multirange_contains_multirange multirange_contains_range multirange_eq multirange_ge multirange_gt multirange_intersect
multirange_intersect_agg_transfn multirange_le multirange_lt multirange_minus multirange_ne
multirange_overlaps_multirange multirange_overlaps_range multirange_overleft_multirange multirange_overleft_range
multirange_overright_multirange multirange_overright_range multirange_union percent_rank percentile_disc range_adjacent
range_adjacent_multirange range_after range_after_multirange range_agg range_before range_before_multirange range_cmp
range_contained_by range_contained_by_multirange range_contains range_contains_elem range_contains_multirange range_eq
range_ge range_gt range_intersect range_intersect_agg range_intersect_agg_transfn range_le range_lt range_merge
range_minus range_ne range_overlaps range_overlaps_multirange range_overleft range_overleft_multirange range_overright
range_overright_multirange range_union rank record_eq record_ge record_gt record_image_eq record_image_ge
record_image_gt record_image_le record_image_lt record_image_ne record_larger record_le record_lt record_ne
record_smaller width_bucket"""
_TO_JSON = """array_to_json json_agg json_agg_strict json_build_array json_build_object json_object_agg
json_object_agg_strict json_object_agg_unique json_object_agg_unique_strict jsonb_agg jsonb_agg_strict
jsonb_build_array jsonb_build_object jsonb_object_agg jsonb_object_agg_strict jsonb_object_agg_unique
jsonb_object_agg_unique_strict row_to_json to_json to_jsonb"""
_TO_TEXT = "anytextcat quote_literal quote_nullable textanycat"
"""They are in SQL, and cast to text."""
_INPUT = """array_agg json_populate_record json_populate_recordset jsonb_populate_record jsonb_populate_record_valid
jsonb_populate_recordset"""
"""What parallel workers have of an array_agg() is sent and received: array_agg_deserialize(), array_userfuncs.c."""

ROLES = {
    name: role
    for role, names in (
        ("", _NOTHING),
        ("compare", _COMPARE),
        ("cast-to-json", _TO_JSON),
        ("cast-to-text", _TO_TEXT),
        ("input", _INPUT),
    )
    for name in names.split()
}
"""What each function runs of the types of such arguments, as a kind of use; empty: nothing beyond their output."""
EVERYTHING = "everything"
"""The kind of use of a type of which nobody knows what runs."""


def runs(
    coercion: Coercion,
    function: Function | None,
    declared: Sequence[int],
    given: Sequence[int],
    takes: Sequence[int],
) -> list[tuple[str, frozenset[int]]]:
    """Return what a function may run of types that it is given where it takes any, by kinds of use.

    `takes` is what it takes in the place of polymorphic types, as far as that is known.
    """
    if OF_ANY_TYPE.isdisjoint(declared):
        return []
    types = frozenset(
        its if type_ in OF_ANY_TYPE else type_
        for wanted, its, type_ in zip(declared, given, takes, strict=True)
        if wanted in OF_ANY_TYPE
    )
    is_built_in = function is not None and function.schema == oids.PG_CATALOG and function.oid < _FIRST_NORMAL_OID
    role = ROLES.get(function.name, EVERYTHING) if function is not None and is_built_in else EVERYTHING
    found = [(role, types)] if role else []
    ranges = frozenset(each for each in types if _is_range(coercion, coercion.base(each)))
    # whatever makes a range anew compares its bounds and makes it canonical
    return [*found, ("compare", ranges)] if ranges else found


def _is_range(coercion: Coercion, type_: int) -> bool:
    return bool(coercion.subtype(type_) or coercion.range_of(type_))
