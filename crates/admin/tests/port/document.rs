//! The document of the API: kept as agreed, and true.

use hyper::StatusCode;
use serde_json::Value;

use crate::schema;
use crate::served::{Answer, Served};

/// Programs depend on it: a change is made on purpose, with
/// `POSTRIDER_GOLDEN=write cargo test -p admin`.
#[test]
fn it_is_what_was_agreed() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
    let text = serde_json::to_string_pretty(&admin::openapi::document()).unwrap() + "\n";
    if std::env::var_os("POSTRIDER_GOLDEN").is_some_and(|wish| wish == "write") {
        std::fs::write(file, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(file).unwrap(), text);
}

/// Whatever a schema refers to is in the document, also what no answer below happened to hold.
#[test]
fn no_reference_leads_nowhere() {
    let document = serde_json::to_value(admin::openapi::document()).unwrap();
    let text = document.to_string();
    let mut references = 0;
    for rest in text.split("\"$ref\":\"#").skip(1) {
        let pointer = rest.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer}");
        references += 1;
    }
    assert!(references > 10, "{references}");
}

#[tokio::test]
async fn every_path_of_it_answers_as_it_says() {
    let served = Served::start().await;
    let id = served.deferred("x@example.net", "come back later").await;
    let document: Value = serde_json::from_str(&served.get("/v1/openapi.json").await.body).unwrap();
    let (mut asked, mut checked) = (0, 0);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let path = path.replace("{id}", &id.to_string());
            for query in queries(&document, operation) {
                let answer = ask(&served, method, &format!("{path}{query}")).await;
                assert_eq!(answer.status, StatusCode::OK, "{path}{query}: {}", answer.body);
                checked += check(&document, operation, &answer, &format!("{path}{query}"));
                asked += 1;
            }
        }
    }
    assert!(asked >= 10 && checked >= 10, "{asked} questions, {checked} values");
}

async fn ask(served: &Served, method: &str, path: &str) -> Answer {
    match method {
        "get" => served.get(path).await,
        "post" => {
            let hold = r#"{"action": "hold", "filter": {"sender": "a@example.org"}}"#;
            served.post(path, hold).await
        }
        other => panic!("how is {other} asked?"),
    }
}

/// The required parameters alone, and with each other one; of an enumeration each value.
fn queries(document: &Value, operation: &Value) -> Vec<String> {
    let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
    let in_query = |parameter: &&Value| parameter["in"] == "query";
    let (required, optional): (Vec<&Value>, Vec<&Value>) =
        parameters.iter().filter(in_query).partition(|parameter| parameter["required"] == true);
    let mut bases = vec!["?".to_owned()];
    for parameter in required {
        let each = values(document, parameter);
        bases =
            bases.iter().flat_map(|base| each.iter().map(move |v| format!("{base}{v}&"))).collect();
    }
    let mut all = bases.clone();
    for parameter in optional {
        for value in values(document, parameter) {
            all.extend(bases.iter().map(|base| format!("{base}{value}")));
        }
    }
    all
}

fn values(document: &Value, parameter: &Value) -> Vec<String> {
    let name = parameter["name"].as_str().unwrap();
    if let Some(choices) = choices(document, &parameter["schema"]) {
        return choices.iter().map(|choice| format!("{name}={choice}")).collect();
    }
    let value = match name {
        "message" => "01JD5ZQ9W3T8M1V5K7N2B4C6XR",
        "tenant" => "default",
        "login" => "alice@example.org",
        "sender" => "@example.org",
        "recipientDomain" => "example.net",
        "olderThanSeconds" => "0",
        other => panic!("what is asked for {other}?"),
    };
    vec![format!("{name}={value}")]
}

/// The values of an enumeration, through references and `null` beside it.
fn choices(document: &Value, schema: &Value) -> Option<Vec<String>> {
    if let Some(reference) = schema["$ref"].as_str() {
        return choices(document, document.pointer(reference.trim_start_matches('#'))?);
    }
    if let Some(of) = schema["oneOf"].as_array() {
        return of.iter().find_map(|schema| choices(document, schema));
    }
    let values = schema["enum"].as_array()?;
    Some(values.iter().filter_map(|value| value.as_str().map(str::to_owned)).collect())
}

/// How many values of the answer are as described.
fn check(document: &Value, operation: &Value, answer: &Answer, path: &str) -> usize {
    let content = operation["responses"]["200"]["content"].as_object().unwrap();
    let (kind, described) = content.iter().next().unwrap();
    assert_eq!(answer.header("content-type"), kind, "{path}");
    if path.starts_with("/v1/openapi.json") {
        return 1;
    }
    let values: Vec<Value> = match &**kind {
        "application/x-ndjson" => {
            answer.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
        "message/rfc822" => vec![answer.body.clone().into()],
        _ => vec![serde_json::from_str(&answer.body).unwrap()],
    };
    for value in &values {
        let wrong = schema::check(document, &described["schema"], value, path);
        assert_eq!(wrong, Vec::<String>::new(), "{value:#}");
    }
    values.len()
}
