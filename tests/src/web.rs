//! Fetches a page as any client would: HTTP/1.1 GET over TCP on the loopback.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// One attempt takes at most this long.
const ATTEMPT: Duration = Duration::from_secs(5);
/// No page is larger.
const PAGE_MAX: u64 = 1 << 20;

/// A page as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The status code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// Bytes of the whole answer, header and body.
    pub bytes: u64,
}

/// Fetches `/` from a port of the loopback, again and again until it works or `patience` ends.
///
/// # Errors
/// The last attempt's error.
pub fn fetch(port: u16, patience: Duration) -> Result<Page> {
    let deadline = Instant::now() + patience;
    loop {
        match attempt(port) {
            Ok(page) => return Ok(page),
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(200)),
        }
    }
}

fn attempt(port: u16) -> Result<Page> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream =
        TcpStream::connect_timeout(&address, ATTEMPT).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(ATTEMPT))?;
    stream.set_write_timeout(Some(ATTEMPT))?;
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).with_context(|| format!("cannot send to {address}"))?;
    let mut answer = Vec::new();
    stream.take(PAGE_MAX).read_to_end(&mut answer).with_context(|| format!("no answer from {address}"))?;
    parse(&answer)
}

fn parse(answer: &[u8]) -> Result<Page> {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        bail!("the answer has {} bytes and no end of its header", answer.len());
    };
    let header = str::from_utf8(&answer[..end]).context("the answer's header is no text")?;
    let mut lines = header.lines();
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")).and_then(|line| line.split(' ').nth(1));
    let Some(status) = status.and_then(|status| status.parse().ok()) else { bail!("the answer is no HTTP") };
    let body = answer[end + 4..].to_vec();
    let length =
        lines.filter_map(|line| line.split_once(':')).find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if let Some((_, length)) = length {
        let length: usize = length.trim().parse().context("the answer's length is no number")?;
        if length != body.len() {
            bail!("the answer announces {length} bytes and has {}", body.len());
        }
    }
    Ok(Page { status, body, bytes: answer.len() as u64 })
}

/// A port of the loopback without a listener right now.
///
/// # Errors
/// When the system has none.
pub fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on the loopback")?;
    Ok(listener.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_taken_apart_and_a_short_or_odd_one_refused() {
        let page = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").unwrap();
        assert_eq!((page.status, page.body.as_slice()), (200, b"hello".as_slice()));
        assert_eq!(parse(b"HTTP/1.0 404 Not Found\r\n\r\n").unwrap().status, 404);
        for bad in ["HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", "HTTP/1.1 200 OK\r\n", "SSH-2.0-x\r\n\r\n", ""]
        {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_page_is_fetched_from_a_server_that_starts_late() {
        let port = free_port().unwrap();
        let server = thread::spawn(move || {
            thread::sleep(Duration::from_millis(300));
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let len = stream.read(&mut request).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\npage").unwrap();
            request[..len].to_vec()
        });
        assert_eq!(fetch(port, Duration::from_secs(10)).unwrap().body, b"page");
        assert!(server.join().unwrap().starts_with(b"GET / HTTP/1.1\r\n"));
    }
}
