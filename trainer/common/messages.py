"""Protobuf messages declared in Python: for formats of which we need a part, without their package.

They live in pools of their own, so they cannot clash with that package where it is installed.
"""

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _FIELD.TYPE_BOOL,
    "bytes": _FIELD.TYPE_BYTES,
    "double": _FIELD.TYPE_DOUBLE,
    "float": _FIELD.TYPE_FLOAT,
    "int64": _FIELD.TYPE_INT64,
    "string": _FIELD.TYPE_STRING,
    "uint64": _FIELD.TYPE_UINT64,
}


def declare(
    syntax: str,
    messages: Mapping[str, Sequence[str]],
    enums: Mapping[str, Sequence[str]] | None = None,
) -> SimpleNamespace:
    """Message classes, as attributes by name.

    Args:
        syntax: "proto2" (every field can be unset) or "proto3".
        messages: Message -> its fields, each as in a .proto file, "repeated bytes value = 1"; with
            "optional" where there would be nothing, and "oneof" for those of which one is set.
        enums: Enum -> its values, each as in a .proto file, "FLOAT = 3".
    """
    file = descriptor_pb2.FileDescriptorProto(name="ours.proto", package="ours", syntax=syntax)
    enums = enums or {}
    for name, values in enums.items():
        enum = file.enum_type.add(name=name)
        for value in values:
            value_name, _, number = value.split()
            enum.value.add(name=value_name, number=int(number))
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field in fields:
            _add_field(message, field, enums)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    classes = {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"ours.{name}"))
        for name in messages
    }
    return SimpleNamespace(**classes)


def _add_field(message, declaration: str, enums: Mapping) -> None:
    label, type_name, name, _, number = declaration.split()
    field = message.field.add(name=name, number=int(number))
    field.label = _FIELD.LABEL_REPEATED if label == "repeated" else _FIELD.LABEL_OPTIONAL
    if type_name in _SCALARS:
        field.type = _SCALARS[type_name]
    else:
        field.type = _FIELD.TYPE_ENUM if type_name in enums else _FIELD.TYPE_MESSAGE
        field.type_name = f".ours.{type_name}"
    if label == "oneof":
        if not message.oneof_decl:
            message.oneof_decl.add(name="kind")
        field.oneof_index = 0
