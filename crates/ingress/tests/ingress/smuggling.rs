//! One message in is one message stored, whatever its line ends pretend; nothing said in clear
//! counts under TLS.

use super::server::Server;

/// Ends of data that some server somewhere takes for one.
const FALSE_ENDS: &[&str] =
    &["\n.\n", "\n.\r\n", "\r\n.\n", "\r.\r", "\r\n.\r", "\r.\r\n", "\r\n.\r\r\n", "\n\n.\r\n"];

#[tokio::test]
async fn a_false_end_refuses_the_whole_message() {
    for end in FALSE_ENDS {
        let server = Server::start();
        let mut client = server.greeted().await;
        client.begin("a@example.com", "bob@example.org").await;
        let second = "MAIL FROM:<admin@example.org>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\nevil";
        client.send(format!("Subject: x\r\n\r\nx{end}{second}\r\n.\r\n").as_bytes()).await;
        client.expect("550 5.6.11").await;
        client.expect_end().await;
        assert!(server.queue.messages().is_empty(), "{end:?}");
    }
}

#[tokio::test]
async fn what_dots_hide_stays_content() {
    let server = Server::start();
    let mut client = server.greeted().await;
    let reply = client
        .send_message("a@example.com", "bob@example.org", "S: x\r\n\r\n..\r\nMAIL FROM:<>\r\n")
        .await;
    assert!(reply.starts_with("250"));
    assert_eq!(server.only_message().body, b".\r\nMAIL FROM:<>\r\n");
}

/// CVE-2011-0411 and its kin: commands sent along with STARTTLS are neither executed nor answered.
#[tokio::test]
async fn starttls_injection() {
    let server = Server::start();
    let mut client = server.greeted().await;
    client.says("MAIL FROM:<evil@example.com>", "250").await;
    client.send(b"STARTTLS\r\nRCPT TO:<bob@example.org>\r\nRSET\r\n").await;
    client.expect("220 2.0.0").await;
    let mut client = client.start_tls("mx.example.org").await;
    client.says("RCPT TO:<bob@example.org>", "503 5.5.1").await;
    client.says("MAIL FROM:<a@example.com>", "503 5.5.1 Send EHLO").await;
    client.says("EHLO client.example", "250").await;
    client.says("MAIL FROM:<a@example.com>", "250").await;
}

#[tokio::test]
async fn talking_before_the_greeting() {
    use ingress::Kind;
    use std::io::Write;
    // The octets lie in the kernel before anybody accepts, so the server cannot miss them.
    let server = Server::start_with(|config| config.limits.connections_max = 1);
    let first = server.connect().await;
    let mut early = std::net::TcpStream::connect(server.address(Kind::Relay)).unwrap();
    early.write_all(b"EHLO early.example\r\n").unwrap();
    early.set_nonblocking(true).unwrap();
    let mut early = super::client::Client::over(tokio::net::TcpStream::from_std(early).unwrap());
    let reply = early.reply().await;
    assert!(reply.starts_with("421 4.7.0") || reply.starts_with("554 5.5.0"), "{reply}");
    drop(first);
}
