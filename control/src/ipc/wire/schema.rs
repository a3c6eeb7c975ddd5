//! The whole wire as JSON Schema, drawn from the types themselves.

use super::Frame;
use schemars::generate::SchemaSettings;

/// The schema of a frame (draft 2020-12), as a text that ends with a line feed.
#[must_use]
pub fn schema() -> String {
    let schema = SchemaSettings::draft2020_12().for_deserialize().into_generator().into_root_schema_for::<Frame>();
    // A tree of strings has no way to fail on its way into memory.
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}
