//! `google.api.field_behavior` of fields.

use prost_reflect::{FieldDescriptor, Value};

/// What a field is to a client.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Behavior {
    /// A request without it is refused.
    pub(super) required: bool,
    /// Only answers have it; in a request it is ignored.
    pub(super) output_only: bool,
    /// Set at creation only.
    pub(super) immutable: bool,
}

impl Behavior {
    pub(super) fn of(field: &FieldDescriptor) -> Self {
        let mut behavior = Self::default();
        let pool = field.parent_message().parent_pool().clone();
        let Some(extension) = pool.get_extension_by_name("google.api.field_behavior") else {
            return behavior;
        };
        let kind = extension.kind();
        let options = field.options();
        let values = options.get_extension(&extension);
        for value in values.as_list().into_iter().flatten() {
            let number = match value {
                Value::EnumNumber(number) => *number,
                _ => continue,
            };
            let named = kind.as_enum().and_then(|kind| kind.get_value(number));
            match named.as_ref().map(|value| value.name()) {
                Some("REQUIRED") => behavior.required = true,
                Some("OUTPUT_ONLY") => behavior.output_only = true,
                Some("IMMUTABLE") => behavior.immutable = true,
                _ => {}
            }
        }
        behavior
    }
}
