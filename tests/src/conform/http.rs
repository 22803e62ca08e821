//! Requests to the HTTP socket of Firecracker or Cloud Hypervisor: JSON out, a status back. `httparse` reads the answer.

use crate::socket::Bounded;
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::time::Duration;

/// A socket is there, and an answer comes, within this time.
const PATIENCE: Duration = Duration::from_secs(10);
/// No answer is longer.
const ANSWER_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 32;

/// Sends a request, once there is a listener.
///
/// # Errors
/// When there is none, or the answer is not one of success: with what it says.
pub fn request(socket: &Path, method: &str, place: &str, body: &Value) -> Result<()> {
    let stream = Bounded::connect(socket, PATIENCE);
    let stream = stream.with_context(|| format!("cannot connect to {}", socket.display()))?;
    exchange(stream, method, place, body).with_context(|| format!("{method} {place} {body}"))
}

fn exchange(mut stream: Bounded, method: &str, place: &str, body: &Value) -> Result<()> {
    stream.restart(PATIENCE);
    let body = body.to_string();
    let head = format!(
        "{method} {place} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).context("cannot send")?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match complete(&answer)? {
            Some((status, _)) if (200..300).contains(&status) => return Ok(()),
            Some((status, said)) => bail!("status {status}: {}", said.trim()),
            None => ensure!(answer.len() < ANSWER_MAX, "the answer has no end"),
        }
        match stream.read(&mut buffer) {
            Ok(0) => bail!("the answer was cut off after {} bytes", answer.len()),
            Ok(len) => answer.extend(&buffer[..len]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("no answer"),
        }
    }
}

/// Status and body of an answer that is complete.
fn complete(answer: &[u8]) -> Result<Option<(u16, String)>> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(end) =
        response.parse(answer).map_err(|error| anyhow!("the answer is no HTTP: {error}"))?
    else {
        return Ok(None);
    };
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = match length {
        Some(header) => str::from_utf8(header.value)?.trim().parse::<usize>().context("the answer's length")?,
        None => 0,
    };
    ensure!(length <= ANSWER_MAX, "the answer has {length} bytes");
    let body = answer.get(end..end + length);
    Ok(body.map(|body| (response.code.unwrap_or(0), String::from_utf8_lossy(body).into_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::net::UnixListener;
    use std::thread;

    /// What a server hears that answers so, in pieces.
    fn served(answer: &'static str) -> (String, Result<()>) {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api");
        let listener = UnixListener::bind(&socket).unwrap();
        let server = thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut heard = Vec::new();
            while !heard.ends_with(b"}") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                heard.push(byte[0]);
            }
            // Who hears rubbish may hang up before all of it was said.
            let _ = answer.as_bytes().chunks(7).try_for_each(|piece| stream.write_all(piece));
            String::from_utf8(heard).unwrap()
        });
        let result = request(&socket, "PATCH", "/balloon", &json!({"amount_mib": 1}));
        (server.join().unwrap(), result)
    }

    #[test]
    fn a_request_is_one_and_success_has_no_body_to_wait_for() {
        let (heard, result) = served("HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n");
        result.unwrap();
        assert!(heard.starts_with("PATCH /balloon HTTP/1.1\r\nHost: "), "{heard}");
        assert!(
            heard.contains("\r\nContent-Length: 16\r\n") && heard.ends_with("\r\n\r\n{\"amount_mib\":1}"),
            "{heard}"
        );
    }

    #[test]
    fn a_refusal_is_told_in_the_servers_words_and_rubbish_is_an_error() {
        let refusal = "HTTP/1.1 400 \r\nContent-Length: 28\r\n\r\n{\"fault_message\":\"too much\"}";
        let told = format!("{:#}", served(refusal).1.unwrap_err());
        assert_eq!(told, "PATCH /balloon {\"amount_mib\":1}: status 400: {\"fault_message\":\"too much\"}");
        for rubbish in ["hello there\r\n\r\n", "HTTP/1.1 200 \r\nContent-Length: many\r\n\r\n", "HTTP/1.1 200 \r\n"] {
            assert!(served(rubbish).1.is_err(), "{rubbish}");
        }
    }
}
