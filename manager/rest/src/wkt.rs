//! Which messages JSON writes in a form of their own: the well-known types.
//!
//! Invariant: such a message is one value to a client: no field of it is named in a path, a mask
//! or the query.

use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

/// Whether it is a well-known type.
pub(crate) fn is(message: &MessageDescriptor) -> bool {
    matches!(
        message.full_name(),
        "google.protobuf.Any"
            | "google.protobuf.Timestamp"
            | "google.protobuf.Duration"
            | "google.protobuf.FieldMask"
            | "google.protobuf.Empty"
    ) || is_json(message)
        || is_wrapper(message)
}

/// Whether it holds any JSON.
pub(crate) fn is_json(message: &MessageDescriptor) -> bool {
    matches!(
        message.full_name(),
        "google.protobuf.Struct" | "google.protobuf.Value" | "google.protobuf.ListValue"
    )
}

/// Whether it is one value that may be absent.
pub(crate) fn is_wrapper(message: &MessageDescriptor) -> bool {
    message.parent_file().name() == "google/protobuf/wrappers.proto"
}

/// Whether it is a mask of fields.
pub(crate) fn is_mask(field: &FieldDescriptor) -> bool {
    !field.is_list()
        && !field.is_map()
        && matches!(field.kind(), Kind::Message(m) if m.full_name() == "google.protobuf.FieldMask")
}

/// The message of a field with fields that clients name: not a list, a map or a well-known type.
pub(crate) fn message_of(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    match field.kind() {
        Kind::Message(message) if !field.is_list() && !field.is_map() && !is(&message) => {
            Some(message)
        }
        _ => None,
    }
}
