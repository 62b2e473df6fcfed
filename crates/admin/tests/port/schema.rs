//! Whether a value is what a schema of an OpenAPI document says.

use serde_json::Value;

/// What is wrong with `value`. A property that the schema does not name is wrong, too.
pub(crate) fn check(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#'));
        return match target {
            Some(target) => check(document, target, value, at),
            None => vec![format!("{at}: {reference} is not there")],
        };
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fits = choices.iter().filter(|choice| check(document, choice, value, at).is_empty());
        let count = fits.count();
        return if count == 1 {
            vec![]
        } else {
            vec![format!("{at}: {count} choices fit {value}")]
        };
    }
    if !has_type(&schema["type"], value) {
        return vec![format!("{at}: {value} is no {}", schema["type"])];
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        return vec![format!("{at}: {value} is none of {allowed:?}")];
    }
    match value {
        Value::Object(_) => check_object(document, schema, value, at),
        Value::Array(items) => {
            let item = |(n, item)| check(document, &schema["items"], item, &format!("{at}[{n}]"));
            items.iter().enumerate().flat_map(item).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => vec![],
    }
}

fn check_object(document: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for required in schema["required"].as_array().into_iter().flatten() {
        if value.get(required.as_str().unwrap()).is_none() {
            wrong.push(format!("{at}: has no {required}"));
        }
    }
    for (name, inner) in value.as_object().into_iter().flatten() {
        let at = format!("{at}.{name}");
        match schema["properties"].get(name) {
            Some(schema) => wrong.extend(check(document, schema, inner, &at)),
            None => wrong.push(format!("{at}: is not in the document")),
        }
    }
    wrong
}

fn has_type(wanted: &Value, value: &Value) -> bool {
    let names: Vec<&str> = match wanted.as_array() {
        Some(names) => names.iter().filter_map(Value::as_str).collect(),
        None => wanted.as_str().into_iter().collect(),
    };
    names.iter().any(|name| match *name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        _ => false,
    })
}

#[test]
fn lies_are_found() {
    use serde_json::json;
    let document = json!({"components": {"schemas": {"Name": {"type": "string"}}}});
    let schema = json!({
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"$ref": "#/components/schemas/Name"},
            "age": {"type": ["integer", "null"]},
            "kind": {"type": "string", "enum": ["a", "b"]},
            "tags": {"type": "array", "items": {"oneOf": [{"type": "null"}, {"type": "string"}]}},
        },
    });
    let good = json!({"name": "x", "age": null, "kind": "a", "tags": ["t", null]});
    assert_eq!(check(&document, &schema, &good, ""), Vec::<String>::new());
    for bad in [
        json!({}),
        json!([]),
        json!({"name": 1}),
        json!({"name": "x", "age": "1"}),
        json!({"name": "x", "age": 1.5}),
        json!({"name": "x", "kind": "c"}),
        json!({"name": "x", "tags": [1]}),
        json!({"name": "x", "more": 1}),
    ] {
        assert_eq!(check(&document, &schema, &bad, "").len(), 1, "{bad}");
    }
}
