"""The types of values (docs: configuration): each says what it accepts, in the words of the operator.

A type is made with its limits, ``Duration(minimum=1)``, and reads the words of one directive. What it gives:

    Boolean → bool                   Duration → float, seconds        Size → int, bytes
    Integer, Float → int, float      String, Path → str               Strings, List → tuple
    Args → tuple                     Choice → str                     OneOf → Chosen(word, value)
    Endpoint → EndpointAddress       Network → ipaddress network      Secret → SecretText
    Address → ipaddress address      OpenedEndpoint → EndpointAddress OwnName → str
    ReplyCode → Reply                ModuleLine, ReferenceTo, BlockOrReference → the module
    ModuleList → tuple of modules    ConditionValue → Condition        DomainsOrTable → LocalDomains
"""

from mailgate.config.conditions import Condition, ConditionValue
from mailgate.config.domains import DomainsOrTable, LocalDomains
from mailgate.config.line import REQUIRED, Args, Choice, Chosen, Line, List, Nothing, OneOf, Refused, Scope, Value
from mailgate.config.places import Address, Endpoint, EndpointAddress, Network, OpenedEndpoint, OwnName, Path, Secret, SecretText
from mailgate.config.references import BlockOrReference, ModuleLine, ModuleList, ReferenceTo
from mailgate.config.scalars import (
    Boolean,
    Duration,
    Float,
    Integer,
    ReplyCode,
    ReplyText,
    Size,
    String,
    Strings,
    format_duration,
    format_size,
)

__all__ = [
    "REQUIRED",
    "Address",
    "Args",
    "BlockOrReference",
    "Boolean",
    "Choice",
    "Chosen",
    "Condition",
    "ConditionValue",
    "DomainsOrTable",
    "Duration",
    "Endpoint",
    "EndpointAddress",
    "Float",
    "Integer",
    "Line",
    "List",
    "LocalDomains",
    "ModuleLine",
    "ModuleList",
    "Network",
    "Nothing",
    "OneOf",
    "OpenedEndpoint",
    "OwnName",
    "Path",
    "ReferenceTo",
    "Refused",
    "ReplyCode",
    "ReplyText",
    "Scope",
    "Secret",
    "SecretText",
    "Size",
    "String",
    "Strings",
    "Value",
    "format_duration",
    "format_size",
]
