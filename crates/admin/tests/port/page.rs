//! What the page is served with, and that text of strangers stays text.

use hyper::StatusCode;

use crate::served::Served;

const FILES: [(&str, &str); 3] = [
    ("/", "text/html; charset=utf-8"),
    ("/page.css", "text/css; charset=utf-8"),
    ("/page.js", "text/javascript; charset=utf-8"),
];

async fn file(served: &Served, path: &str) -> String {
    let answer = served.ask("GET", path, &[("host", "localhost")], "").await;
    assert_eq!(answer.status, StatusCode::OK);
    answer.body
}

#[tokio::test]
async fn it_needs_no_token_and_has_a_strict_policy() {
    let served = Served::start().await;
    for (path, kind) in FILES {
        let answer = served.ask("GET", path, &[("host", "localhost")], "").await;
        assert_eq!((answer.status, answer.header("content-type")), (StatusCode::OK, kind));
        let policy = answer.header("content-security-policy");
        for directive in [
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(policy.split("; ").any(|part| part == directive), "{directive}: {policy}");
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*'), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
}

#[tokio::test]
async fn the_script_makes_no_markup_of_text() {
    let served = Served::start().await;
    let script = file(&served, "/page.js").await;
    for sink in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval",
        "Function(",
        "DOMParser",
        "setHTML",
        "srcdoc",
        "createContextualFragment",
        "javascript:",
        "import(",
        "localStorage",
    ] {
        assert!(!script.contains(sink), "{sink}");
    }
}

#[tokio::test]
async fn nothing_is_inline_and_nothing_comes_from_elsewhere() {
    let served = Served::start().await;
    let html = file(&served, "/").await;
    for (tag, inside) in html.split('<').skip(1).filter_map(|rest| rest.split_once('>')) {
        let is_code = tag.starts_with("script") || tag.starts_with("style");
        assert!(!is_code || inside.trim().is_empty(), "inline: {tag}");
        for attribute in tag.split_ascii_whitespace().skip(1) {
            let is_handler = attribute.starts_with("on") && attribute.contains('=');
            assert!(!is_handler && !attribute.starts_with("style="), "inline: {tag}");
        }
    }
    for (path, _) in FILES {
        let text = file(&served, path).await.replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("//cdn") && !text.contains("http://"), "{path}");
        assert!(!text.contains("https://") && !text.contains("@import"), "{path}");
    }
    for name in ["/page.css", "/page.js"] {
        assert!(html.contains(&format!("\"{name}\"")), "{name} is not used");
    }
}

#[tokio::test]
async fn a_hostile_reply_arrives_as_json() {
    let served = Served::start().await;
    let hostile = "</script><img src=x onerror=alert(1)>";
    let id = served.deferred("x@example.net", hostile).await;
    for path in [&*format!("/v1/messages/{id}"), "/v1/jobs", "/v1/top?by=reason"] {
        let answer = served.get(path).await;
        assert!(answer.body.contains("</script><img src=x"), "{answer:?}");
        assert!(answer.header("content-type").starts_with("application/"), "{answer:?}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
    }
    // A refused question does not come back as a page either.
    let answer = served.get("/v1/jobs?phase=%3Cscript%3E").await;
    assert_eq!(answer.header("content-type"), "text/plain; charset=utf-8");
}
