//! The fields of an API, as paths.
//!
//! In: an OpenAPI schema. Out: `http[].match[].headers.*.exact`, where `[]` is an item of a list and `*` a
//! value of a map: each field that has none below itself.

use std::collections::BTreeSet;

use serde_json::Value;

/// The fields of a schema; what it refers to is in `document`.
pub fn fields(schema: &Value, document: &Value) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    add(schema, document, String::new(), &mut all);
    all
}

fn add(schema: &Value, document: &Value, path: String, all: &mut BTreeSet<String>) {
    let schema = resolved(schema, document);
    let is_more = |one: &Value| {
        let one = resolved(one, document);
        ["properties", "items"].iter().any(|more| !one[more].is_null())
            || one["additionalProperties"].is_object()
    };
    if let Some(properties) = schema["properties"].as_object() {
        for (name, one) in properties {
            let below = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            add(one, document, below, all);
        }
    } else if !schema["items"].is_null() {
        add(&schema["items"], document, format!("{path}[]"), all);
    } else if is_more(&schema["additionalProperties"]) {
        add(
            &schema["additionalProperties"],
            document,
            format!("{path}.*"),
            all,
        );
    } else {
        all.insert(path);
    }
}

/// What a reference names, written alone or as the only one of `allOf`.
fn resolved<'a>(schema: &'a Value, document: &'a Value) -> &'a Value {
    let reference = [&schema["$ref"], &schema["allOf"][0]["$ref"]];
    let name = reference.into_iter().find_map(Value::as_str);
    let named = name.and_then(|name| document.pointer(name.strip_prefix('#')?));
    named.unwrap_or(schema)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_what_has_none_below() {
        let text = json!({"type": "string"});
        let schema = json!({"properties": {
            "hosts": {"items": text},
            "labels": {"additionalProperties": text},
            "any": {"type": "object"},
            "rules": {"items": {"properties": {"name": text, "headers": {"additionalProperties": {"$ref": "#/all/match"}}}}},
            "port": {"allOf": [{"$ref": "#/all/port"}], "default": {}},
        }});
        let document = json!({"all": {
            "match": {"properties": {"exact": text, "prefix": text}},
            "port": {"properties": {"number": {"type": "integer"}}},
        }});
        let fields: Vec<_> = fields(&schema, &document).into_iter().collect();
        let wanted = [
            "any",
            "hosts[]",
            "labels",
            "port.number",
            "rules[].headers.*.exact",
            "rules[].headers.*.prefix",
            "rules[].name",
        ];
        assert_eq!(fields, wanted);
    }
}
