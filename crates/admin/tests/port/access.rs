//! Who is let in.

use hyper::StatusCode;

use crate::served::{Served, TOKEN, write_token};

const PATHS: [&str; 5] = [
    "/v1/stats",
    "/v1/jobs",
    "/v1/top?by=reason",
    "/v1/passwords?login=alice@example.org",
    "/v1/openapi.json",
];

#[tokio::test]
async fn without_the_token_nothing_is_told_or_done() {
    let served = Served::start().await;
    let id = served.deferred("x@example.net", "secret reply").await;
    let wrong = [
        None,
        Some("Bearer".to_owned()),
        Some("Bearer ".to_owned()),
        Some(format!("Bearer {}", "0".repeat(32))),
        Some(format!("Bearer {TOKEN}0")),
        Some(format!("Bearer {}", &TOKEN[1..])),
        Some(format!("Basic {TOKEN}")),
        Some(TOKEN.to_owned()),
    ];
    let message = format!("/v1/messages/{id}");
    for authorization in &wrong {
        let mut headers = vec![("host", "localhost"), ("content-type", "application/json")];
        headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
        for path in PATHS.iter().chain([&&*message]) {
            let answer = served.ask("GET", path, &headers, "").await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{path} {authorization:?}");
            assert!(answer.header("www-authenticate").starts_with("Bearer "), "{answer:?}");
            assert!(!answer.body.contains("secret") && !answer.body.contains(TOKEN));
        }
        let all = r#"{"action": "cancelSilently", "filter": {}, "all": true}"#;
        let answer = served.ask("POST", "/v1/actions", &headers, all).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
    let stats = served.get("/v1/stats").await;
    assert_eq!(stats.status, StatusCode::OK);
    assert!(stats.body.contains(r#""deferred":1"#), "{}", stats.body);
}

#[tokio::test]
async fn a_name_that_is_not_ours_is_refused_with_the_token_and_without() {
    let served = Served::start().await;
    let token = format!("Bearer {TOKEN}");
    for path in ["/", "/page.js", "/v1/stats"] {
        for host in ["evil.example", "localhost.evil.example:8026", "192.0.2.1"] {
            let headers = [("host", host), ("authorization", &*token)];
            let answer = served.ask("GET", path, &headers, "").await;
            assert_eq!(answer.status, StatusCode::MISDIRECTED_REQUEST, "{path} {host}");
            assert!(answer.body.contains("answers to localhost"), "{answer:?}");
        }
        // The other end of a tunnel has another port.
        let headers = [("host", "localhost:9000"), ("authorization", &*token)];
        assert_eq!(served.ask("GET", path, &headers, "").await.status, StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn another_page_may_not_ask_and_not_read() {
    let served = Served::start().await;
    let headers = [
        ("host", "localhost"),
        ("origin", "http://evil.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization"),
    ];
    for path in ["/", "/v1/stats", "/v1/actions"] {
        for method in ["OPTIONS", "GET"] {
            let answer = served.ask(method, path, &headers, "").await;
            let allows = |name: &hyper::header::HeaderName| name.as_str().contains("control-allow");
            assert!(!answer.headers.keys().any(allows), "{answer:?}");
            assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin");
        }
    }
}

#[tokio::test]
async fn a_new_token_holds_at_once_and_an_open_file_lets_nobody_in() {
    use std::os::unix::fs::PermissionsExt;
    let served = Served::start().await;
    let new = "f".repeat(64);
    write_token(&served.token_file, &new);
    assert_eq!(served.get("/v1/stats").await.status, StatusCode::UNAUTHORIZED);
    let bearer = format!("bearer {new}");
    let headers = [("host", "[::1]:8026"), ("authorization", &*bearer)];
    assert_eq!(served.ask("GET", "/v1/stats", &headers, "").await.status, StatusCode::OK);

    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&served.token_file, readable).unwrap();
    let answer = served.ask("GET", "/v1/stats", &headers, "").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(answer.body.contains("admin.tokenFile"), "{answer:?}");
    std::fs::remove_file(&served.token_file).unwrap();
    let answer = served.ask("GET", "/v1/stats", &headers, "").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn what_is_not_understood_is_refused() {
    let served = Served::start().await;
    for path in ["/v1/jobs?phase=lost", "/v1/jobs?nonsense=1", "/v1/messages/x", "/v1/top"] {
        assert_eq!(served.get(path).await.status, StatusCode::BAD_REQUEST, "{path}");
    }
    let all = r#"{"action": "hold", "filter": {}}"#;
    let answer = served.post("/v1/actions", all).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.body.contains("whole queue"), "{answer:?}");
    let long = format!(r#"{{"action": "hold", "filter": {{"sender": "{}"}}}}"#, "x".repeat(70_000));
    let answer = served.post("/v1/actions", &long).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
}
