//! Large mail passes through; it is not collected.

use super::server::Server;

const MIB: usize = 1024 * 1024;

#[tokio::test]
async fn a_message_of_150_mb_takes_little_memory() {
    let server = Server::start_with(|config| {
        config.limits.message_size_bytes = 200 * MIB as u64;
    });
    let mut client = server.greeted().await;
    client.begin("a@example.com", "bob@example.org").await;
    client.send(b"Subject: large\r\n\r\n").await;
    let line = [&b"."[..], &[b'x'; 75], b"\r\n"].concat();
    let block = line.repeat(MIB / line.len());
    let before = rss_bytes();
    let (mut sent, mut highest) = (0, before);
    while sent < 150 * MIB {
        client.send(&block).await;
        sent += block.len();
        highest = highest.max(rss_bytes());
    }
    client.send(b".\r\n").await;
    client.expect("250 2.0.0").await;
    // Each line lost its stuffed dot.
    assert_eq!(server.only_message().body_octets, sent - sent / line.len());
    let grown = highest - before;
    assert!(grown < 16 * MIB, "{grown} bytes more than before");
}

fn rss_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() * 1024
}
