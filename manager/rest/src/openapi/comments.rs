//! The comments of the protos, by what they stand above.
//!
//! Invariant: a text is one line for each paragraph, so that it reads the same as plain text and
//! as CommonMark.

use std::collections::HashMap;

use prost_reflect::{
    DescriptorPool, EnumDescriptor, EnumValueDescriptor, FieldDescriptor, FileDescriptor,
    MessageDescriptor, MethodDescriptor, ServiceDescriptor,
};

/// All leading comments of a descriptor set that was compiled with its source info.
pub(super) struct Comments(HashMap<(String, Vec<i32>), String>);

impl Comments {
    pub(super) fn of(pool: &DescriptorPool) -> Self {
        let mut comments = HashMap::new();
        for file in pool.files() {
            let proto = file.file_descriptor_proto();
            for location in proto.source_code_info.iter().flat_map(|info| &info.location) {
                if let Some(text) = &location.leading_comments {
                    comments.insert((file.name().to_owned(), location.path.clone()), tidy(text));
                }
            }
        }
        Self(comments)
    }

    pub(super) fn service(&self, of: &ServiceDescriptor) -> &str {
        self.find(&of.parent_file(), of.path())
    }

    pub(super) fn method(&self, of: &MethodDescriptor) -> &str {
        self.find(&of.parent_file(), of.path())
    }

    pub(super) fn message(&self, of: &MessageDescriptor) -> &str {
        self.find(&of.parent_file(), of.path())
    }

    pub(super) fn field(&self, of: &FieldDescriptor) -> &str {
        self.find(&of.parent_file(), of.path())
    }

    pub(super) fn enumeration(&self, of: &EnumDescriptor) -> &str {
        self.find(&of.parent_file(), of.path())
    }

    pub(super) fn value(&self, of: &EnumValueDescriptor) -> &str {
        self.find(&of.parent_file(), of.path())
    }

    fn find(&self, file: &FileDescriptor, path: &[i32]) -> &str {
        self.0.get(&(file.name().to_owned(), path.to_vec())).map_or("", String::as_str)
    }
}

/// The first sentence, without its full stop.
pub(super) fn summary(text: &str) -> &str {
    let line = text.lines().next().unwrap_or_default();
    line.split_once(". ").map_or_else(|| line.trim_end_matches('.'), |(first, _)| first)
}

/// Lines joined to paragraphs.
fn tidy(comment: &str) -> String {
    let mut text = String::new();
    for line in comment.lines().map(str::trim) {
        if line.is_empty() {
            text.push_str("\n\n");
        } else {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push(' ');
            }
            text.push_str(line);
        }
    }
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_becomes_paragraphs_and_a_summary() {
        let text = tidy(" One thing: it\n is long. And more.\n\n Another v1.2 one.\n");
        assert_eq!(text, "One thing: it is long. And more.\n\nAnother v1.2 one.");
        assert_eq!(summary(&text), "One thing: it is long");
        assert_eq!(summary("Short."), "Short");
        assert_eq!(summary(""), "");
    }
}
