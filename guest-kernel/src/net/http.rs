//! An HTTP/1.1 server for one page: reads a request, sends the answer, closes.

use super::{CHANGED, Page, Status};
use alloc::format;
use alloc::vec::Vec;
use shared_abi::tour::WEB_PORT;
use smoltcp::socket::tcp::{Socket, State};
use smoltcp::time::Duration;

/// Longest request that is read.
const REQUEST_MAX: usize = 4096;
/// Most headers of a request.
const HEADERS_MAX: usize = 32;
/// A peer that says nothing for that long is dropped.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A connection, or the wait for one.
#[derive(Default)]
pub(super) struct Connection {
    request: Vec<u8>,
    answer: Option<Answer>,
}

struct Answer {
    bytes: Vec<u8>,
    sent: usize,
    /// Not an error message, and not counted yet.
    is_page: bool,
}

impl Connection {
    /// Goes on as far as it gets. True if there is something to send.
    pub(super) fn serve(&mut self, socket: &mut Socket<'_>, status: &Status, page: &Page) -> bool {
        if !socket.is_open() {
            self.finish(status);
            *self = Self::default();
            socket.set_timeout(Some(TIMEOUT));
            // Cannot fail: the socket is closed and the port is not 0.
            let _ = socket.listen(WEB_PORT);
            return false;
        }
        if self.answer.is_none() && socket.can_recv() {
            let room = REQUEST_MAX - self.request.len();
            let request = &mut self.request;
            // Cannot fail: there is something to receive.
            let _ = socket.recv(|bytes| {
                let taken = bytes.len().min(room);
                request.extend_from_slice(&bytes[..taken]);
                (taken, ())
            });
            self.answer = answer(&self.request, page);
        }
        let Some(answer) = &mut self.answer else {
            // The peer closed before it had asked.
            if socket.state() == State::CloseWait {
                socket.close();
                return true;
            }
            return false;
        };
        let mut any = false;
        if answer.sent < answer.bytes.len()
            && socket.can_send()
            && let Ok(sent) = socket.send_slice(&answer.bytes[answer.sent..])
        {
            answer.sent += sent;
            any = sent > 0;
        }
        if answer.sent == answer.bytes.len() && matches!(socket.state(), State::Established | State::CloseWait) {
            socket.close();
            any = true;
        }
        if answer.sent == answer.bytes.len() && socket.send_queue() == 0 {
            self.finish(status);
        }
        any
    }

    /// Counts a page once it has been acknowledged as a whole.
    fn finish(&mut self, status: &Status) {
        if let Some(answer) = &mut self.answer
            && core::mem::take(&mut answer.is_page)
        {
            status.last_page.set(answer.bytes.len());
            status.served.set(status.served.get() + 1);
            CHANGED.raise();
        }
    }
}

/// The answer to a request; `None` while it is incomplete.
fn answer(request: &[u8], page: &Page) -> Option<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        Ok(httparse::Status::Partial) if request.len() < REQUEST_MAX => None,
        Ok(httparse::Status::Partial) => Some(plain("431 Request Header Fields Too Large")),
        Err(_) => Some(plain("400 Bad Request")),
        Ok(httparse::Status::Complete(_)) => Some(match (parsed.method, parsed.path) {
            (Some("GET"), Some("/")) => response("200 OK", "text/html; charset=utf-8", page().as_bytes(), true),
            (Some("GET"), _) => plain("404 Not Found"),
            _ => plain("405 Method Not Allowed"),
        }),
    }
}

fn plain(status: &str) -> Answer {
    response(status, "text/plain", status.as_bytes(), false)
}

fn response(status: &str, content_type: &str, body: &[u8], is_page: bool) -> Answer {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut bytes = head.into_bytes();
    bytes.extend_from_slice(body);
    Answer { bytes, sent: 0, is_page }
}
