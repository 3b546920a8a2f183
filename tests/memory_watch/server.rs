//! A server that sends prepared bytes and allocates next to nothing meanwhile.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

/// Responses of the server.
#[derive(Clone, Copy)]
pub(crate) enum Sends {
    /// Events of a watch list, one per line; a watch after a paged list gets none.
    Lines(&'static [String]),
    /// One list, regardless of any limit; watch lists are refused.
    List(&'static str),
}

/// Starts a server, and returns its URL.
pub(crate) fn start(sends: Sends) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || serve(stream, sends));
        }
    });
    url
}

fn serve(mut stream: TcpStream, sends: Sends) {
    let mut head = [0; 8192];
    loop {
        let mut length = 0;
        while !head[..length].ends_with(b"\r\n\r\n") {
            match stream.read(&mut head[length..]) {
                Ok(0) | Err(_) => return,
                Ok(read) => length += read,
            }
        }
        let text = std::str::from_utf8(&head[..length]).unwrap();
        let line = text.lines().next().unwrap();
        let (watch, initial) = (
            line.contains("watch=true"),
            line.contains("sendInitialEvents"),
        );
        // Whether the client has gone does not matter here.
        let sent = match sends {
            Sends::List(_) if initial => {
                const NO: &str = r#"{"kind":"Status","status":"Failure","message":"no","reason":"Invalid","code":422}"#;
                whole(&mut stream, "422 Unprocessable Entity", NO)
            }
            Sends::List(list) if !watch => whole(&mut stream, "200 OK", list),
            Sends::List(_) => lines(&mut stream, &[]),
            Sends::Lines(_) if watch && !initial => lines(&mut stream, &[]),
            Sends::Lines(events) => lines(&mut stream, events),
        };
        if sent.is_err() {
            return;
        }
    }
}

fn whole(stream: &mut TcpStream, status: &str, body: &str) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body.as_bytes())
}

/// Sends the lines, and keeps the connection open.
fn lines(stream: &mut TcpStream, lines: &[String]) -> std::io::Result<()> {
    stream.write_all(
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n",
    )?;
    for line in lines {
        write!(stream, "{:x}\r\n", line.len())?;
        stream.write_all(line.as_bytes())?;
        stream.write_all(b"\r\n")?;
    }
    std::thread::sleep(std::time::Duration::from_secs(600));
    Ok(())
}
