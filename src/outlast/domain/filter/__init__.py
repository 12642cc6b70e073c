"""Filters on operations, in the language of AIP-160.

`parse` reads a filter, `compile_filter` makes a predicate of it, and `conditions`
what of it a store can test by itself.
"""

from outlast.domain.filter.compiler import Predicate as Predicate
from outlast.domain.filter.compiler import compile_filter as compile_filter
from outlast.domain.filter.narrowing import conditions as conditions
from outlast.domain.filter.operations import operation_schema as operation_schema
from outlast.domain.filter.parser import MAX_DEPTH as MAX_DEPTH
from outlast.domain.filter.parser import MAX_FILTER_LENGTH as MAX_FILTER_LENGTH
from outlast.domain.filter.parser import MAX_PATH_LENGTH as MAX_PATH_LENGTH
from outlast.domain.filter.parser import MAX_TERMS as MAX_TERMS
from outlast.domain.filter.parser import parse as parse
from outlast.domain.filter.schema import Enumeration as Enumeration
from outlast.domain.filter.schema import Field as Field
from outlast.domain.filter.schema import FixedSchema as FixedSchema
from outlast.domain.filter.schema import Kind as Kind
from outlast.domain.filter.schema import Map as Map
from outlast.domain.filter.schema import Message as Message
from outlast.domain.filter.schema import Repeated as Repeated
from outlast.domain.filter.schema import Scalar as Scalar
from outlast.domain.filter.schema import Schema as Schema
from outlast.domain.filter.schema import SearchableSchema as SearchableSchema
from outlast.domain.filter.schema import Type as Type
from outlast.domain.filter.schema import UnionSchema as UnionSchema
from outlast.domain.filter.syntax import Expression as Expression

__all__ = [
    "MAX_DEPTH",
    "MAX_FILTER_LENGTH",
    "MAX_PATH_LENGTH",
    "MAX_TERMS",
    "Enumeration",
    "Expression",
    "Field",
    "FixedSchema",
    "Kind",
    "Map",
    "Message",
    "Predicate",
    "Repeated",
    "Scalar",
    "Schema",
    "SearchableSchema",
    "Type",
    "UnionSchema",
    "compile_filter",
    "conditions",
    "operation_schema",
    "parse",
]
