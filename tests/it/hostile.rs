//! Hostile HTTP against a real `gop manager`: whatever one peer does, memory stays bounded, the
//! answer is a clear 4xx, and everybody else is served meanwhile.

use std::{
    fs,
    io::{self, Write as _},
    time::{Duration, Instant},
};

use flate2::{Compression, write::GzEncoder};
use futures::future::join_all;
use goperation_harness::GopProcess;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

const MIB: u64 = 1 << 20;
/// How much the manager may grow by anything here.
const GROWTH: u64 = 64 * MIB;
/// How long the head of a request may take here.
const HEAD: Duration = Duration::from_secs(1);
/// How long the body of one may take here.
const BODY: Duration = Duration::from_secs(2);
/// What comes at all comes within this.
const PATIENCE: Duration = Duration::from_secs(30);
/// Others are answered within this, on a machine that has more to do.
const LATENCY: Duration = Duration::from_secs(5);

/// A manager under attack, and one who goes on with his work.
struct Prey {
    process: GopProcess,
    address: String,
    before: u64,
    stop: CancellationToken,
    worker: JoinHandle<(u32, Duration)>,
    _folder: TempDir,
}

impl Prey {
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let config = folder.path().join("manager.toml");
        let text = format!(
            "listen = \"127.0.0.1:0\"\ndata_dir = {:?}\n\
             [http]\nheader_timeout = \"{}s\"\nbody_timeout = \"{}s\"\n",
            folder.path().join("data"),
            HEAD.as_secs(),
            BODY.as_secs(),
        );
        fs::write(&config, text).unwrap();
        let args = ["manager".as_ref(), "--config".as_ref(), config.as_os_str()];
        let process = GopProcess::spawn(args).await;
        let address = process.ready_line().split("http://").nth(1).unwrap().to_owned();
        // What is made at the first use is there before the growth is measured.
        for path in ["/v1/agents", "/openapi.json", "/nowhere"] {
            get(&address, path).await;
        }
        let before = memory(process.pid(), "VmRSS");
        let stop = CancellationToken::new();
        let worker = tokio::spawn(work(address.clone(), stop.clone()));
        Self { process, address, before, stop, worker, _folder: folder }
    }

    /// Ends it, and judges how it went.
    async fn end(self, attack: &str) {
        self.end_within(attack, GROWTH).await;
    }

    async fn end_within(mut self, attack: &str, most: u64) {
        self.stop.cancel();
        let (served, slowest) = self.worker.await.unwrap();
        let peak = memory(self.process.pid(), "VmHWM");
        let grown = peak.saturating_sub(self.before);
        println!(
            "{attack}: grown by {} KiB; {served} others served, {slowest:?} at most",
            grown >> 10
        );
        assert!(served > 0, "{attack}: nobody else was served");
        assert!(grown < most, "{attack}: grown from {} to {peak}", self.before);
        assert!(!self.process.stderr_text().contains("panicked"), "{}", self.process.log());
        self.process.term();
        assert_eq!(self.process.wait(PATIENCE).await.code(), Some(0));
    }
}

/// A well-behaved client: asks until it is told to stop, and is always answered in time.
async fn work(address: String, stop: CancellationToken) -> (u32, Duration) {
    let (mut served, mut slowest) = (0, Duration::ZERO);
    while !stop.is_cancelled() {
        let begun = Instant::now();
        let answer =
            timeout(LATENCY, get(&address, "/v1/agents")).await.expect("an answer in time");
        assert_eq!(answer.status, 200, "{answer:?}");
        served += 1;
        slowest = slowest.max(begun.elapsed());
        sleep(Duration::from_millis(10)).await;
    }
    (served, slowest)
}

/// A line of `/proc/PID/status`, in bytes.
fn memory(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{name}:"))).unwrap();
    line.split_whitespace().next().unwrap().parse::<u64>().unwrap() << 10
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() })
    }

    /// That it is the JSON of this reason.
    fn is(&self, status: u16, reason: &str) {
        assert_eq!(self.status, status, "{self:?}");
        assert!(self.head.contains("content-type: application/json"), "{self:?}");
        let body: Value = serde_json::from_str(&self.body).unwrap();
        assert_eq!(body["reason"], reason, "{self:?}");
    }
}

async fn get(address: &str, path: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    ask(address, request.as_bytes()).await
}

/// Sends bytes and reads to the end.
async fn ask(address: &str, bytes: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that has heard enough stops listening.
    let _ = stream.write_all(bytes).await;
    end_of(&mut stream).await
}

async fn end_of(stream: &mut TcpStream) -> Answer {
    let mut bytes = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an end in time");
    Answer::parse(&bytes).unwrap_or_else(|| panic!("no answer, {read:?}: {bytes:?}"))
}

fn post(address: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST /v1/agents HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Connection: close\r\n{headers}\r\n"
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

fn sized(address: &str, body: &[u8]) -> Vec<u8> {
    post(address, &format!("Content-Length: {}\r\n", body.len()), body)
}

/// 100 MB, a piece at a time, for as long as somebody listens.
async fn pour(stream: &mut TcpStream, before: &[u8], after: &[u8]) -> io::Result<()> {
    let piece = [before, &[b'a'; 1 << 16], after].concat();
    for _ in 0..100 * MIB / (1 << 16) {
        stream.write_all(&piece).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_100_mb() {
    let prey = Prey::start().await;
    let address = &prey.address;
    for (headers, before, after) in [
        (format!("Content-Length: {}\r\n", 100 * MIB), "", ""),
        ("Transfer-Encoding: chunked\r\n".to_owned(), "10000\r\n", "\r\n"),
    ] {
        let all = (0..8).map(|_| async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(&post(address, &headers, b"")).await.unwrap();
            let _ = pour(&mut stream, before.as_bytes(), after.as_bytes()).await;
            end_of(&mut stream).await.is(413, "TOO_LARGE");
        });
        join_all(all).await;
    }
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..100 {
        bomb.write_all(&[b' '; 1 << 20]).unwrap();
    }
    let bomb = bomb.finish().unwrap();
    let headers = format!("Content-Encoding: gzip\r\nContent-Length: {}\r\n", bomb.len());
    let all = (0..16).map(|_| async {
        ask(address, &post(address, &headers, &bomb)).await.is(413, "TOO_LARGE");
    });
    join_all(all).await;
    prey.end("a body of 100 MB").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_are_large_once_they_are_parsed() {
    let prey = Prey::start().await;
    let address = &prey.address;
    let text = format!("{{\"nonsense\":[{}0]}}", "0,".repeat(2_000_000));
    let request = sized(address, text.as_bytes());
    let all = join_all((0..32).map(|_| ask(address, &request))).await;
    let (parsed, refused): (Vec<_>, Vec<_>) = all.iter().partition(|answer| answer.status == 400);
    assert!(!parsed.is_empty());
    for answer in refused {
        answer.is(503, "UNAVAILABLE");
        assert!(answer.head.contains("retry-after: 1"), "{answer:?}");
    }
    // Few are parsed at a time, whatever comes.
    prey.end_within("large texts", 512 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_of_1_mb() {
    let prey = Prey::start().await;
    let address = &prey.address;
    let head = |more: &str| {
        format!("GET /v1/agents HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{more}\r\n")
    };
    let one = head(&format!("X: {}\r\n", "a".repeat(MIB as usize)));
    let many = head(&"A: b\r\n".repeat(10_000));
    for request in [one, many] {
        let all = (0..20).map(|_| ask(address, request.as_bytes()));
        for answer in join_all(all).await {
            assert_eq!(answer.status, 431, "{answer:?}");
        }
    }
    let long = get(address, &format!("/{}", "a".repeat(60 << 10))).await;
    long.is(404, "ROUTE_NOT_FOUND");
    let endless = get(address, &format!("/{}", "a".repeat(MIB as usize))).await;
    assert!([414, 431].contains(&endless.status), "{endless:?}");
    let query = get(address, &format!("/v1/agents?{}", "x=1&".repeat(10_000))).await;
    query.is(400, "INVALID_ARGUMENT");
    prey.end("a head of 1 MB").await;
}

/// Sends a byte every now and then until the server has enough.
async fn drip(address: &str, begin: &[u8]) -> (Vec<u8>, Duration) {
    let begun = Instant::now();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(begin).await.unwrap();
    let (mut reader, mut writer) = stream.split();
    let mut bytes = Vec::new();
    let dripping = async {
        while writer.write_all(b"a").await.is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
        // The answer may still be on its way.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = timeout(PATIENCE, reader.read_to_end(&mut bytes)) => {}
        () = dripping => {}
    }
    (bytes, begun.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_loris() {
    let prey = Prey::start().await;
    let address = &prey.address;
    let head = format!("GET /v1/agents HTTP/1.1\r\nHost: {address}\r\nX: ");
    let sized = post(address, "Content-Length: 1000\r\n", b"{");
    let chunked = post(address, "Transfer-Encoding: chunked\r\n", b"3e8\r\n{");
    for (begin, within) in [(head.as_bytes(), HEAD), (&sized, BODY), (&chunked, BODY)] {
        let all = (0..50).map(|_| drip(address, begin));
        for (bytes, took) in join_all(all).await {
            Answer::parse(&bytes).expect("an answer").is(408, "REQUEST_TIMEOUT");
            assert!(took >= within && took < within + LATENCY, "{took:?}");
        }
    }
    // A peer that says nothing, or not which HTTP it speaks, is not waited for.
    for begin in ["", "PRI * HTTP/2.0\r\n"] {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(begin.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an end in time");
        assert!(begun.elapsed() < HEAD + LATENCY, "{:?}", begun.elapsed());
    }
    prey.end("slow loris").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request() {
    let prey = Prey::start().await;
    let address = &prey.address;
    for body in [
        b"{\"host\": \"\xff\xfe\"}".to_vec(),
        "[".repeat(10_000).into_bytes(),
        "{\"a\":".repeat(10_000).into_bytes(),
        format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000)).into_bytes(),
    ] {
        ask(address, &sized(address, &body)).await.is(400, "INVALID_ARGUMENT");
    }
    let mut raw = format!("GET /v1/agents HTTP/1.1\r\nHost: {address}\r\n").into_bytes();
    raw.extend_from_slice(b"X\xff: 1\r\n\r\n");
    for bytes in [
        &raw[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS?\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let text = String::from_utf8_lossy(bytes);
        assert_eq!(ask(address, bytes).await.status, 400, "{text}");
    }
    // Lies about the length: too long is waited for, too short leaves no second request.
    let body = br#"{"host": 1}"#;
    ask(address, &post(address, "Content-Length: 500\r\n", body)).await.is(408, "REQUEST_TIMEOUT");
    ask(address, &post(address, "Content-Length: 3\r\n", body)).await.is(400, "INVALID_ARGUMENT");
    // With both, the chunks count, so that nothing is smuggled behind a length.
    let both = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n";
    let chunked = b"b\r\n{\"host\": 1}\r\n0\r\n\r\n";
    ask(address, &post(address, both, chunked)).await.is(400, "INVALID_ARGUMENT");
    prey.end("what is no request").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_connections() {
    let prey = Prey::start().await;
    let address = &prey.address;
    let kept = format!("GET /v1/agents HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let begun = Instant::now();
    let idle = (0..1000).map(|number| {
        let kept = kept.as_bytes();
        async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // Half of them after a request, half without one.
            if number % 2 == 0 {
                stream.write_all(kept).await.unwrap();
            }
            stream
        }
    });
    let idle = join_all(idle).await;
    assert_eq!(get(address, "/v1/agents").await.status, 200);
    let ends = idle.into_iter().map(|mut stream| async move {
        let mut bytes = Vec::new();
        timeout(PATIENCE, stream.read_to_end(&mut bytes)).await.expect("an end in time").unwrap();
    });
    join_all(ends).await;
    assert!(begun.elapsed() >= HEAD, "{:?}", begun.elapsed());
    prey.end("a thousand idle connections").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read() {
    let prey = Prey::start().await;
    let address = &prey.address;
    let requests = format!("GET /openapi.json HTTP/1.1\r\nHost: {address}\r\n\r\n").repeat(100);
    let deaf = (0..20).map(|_| async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let write = async { while stream.write_all(requests.as_bytes()).await.is_ok() {} };
        let _ = timeout(Duration::from_secs(2), write).await;
        stream
    });
    let deaf = join_all(deaf).await;
    assert_eq!(get(address, "/v1/agents").await.status, 200);
    drop(deaf);
    prey.end("a client that does not read").await;
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// The head of a GET, without Huffman coding.
fn head(path: &str) -> Vec<u8> {
    let text = |name: u8, value: &str| {
        let length = u8::try_from(value.len()).unwrap();
        [&[name, length], value.as_bytes()].concat()
    };
    // `:method: GET` and `:scheme: http` are in the table; names of the others too.
    [vec![0x82, 0x86], text(0x04, path), text(0x01, "localhost")].concat()
}

/// An HTTP/2 connection made of raw frames, with these settings.
async fn raw(address: &str, settings: &[(u16, u32)]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let payload: Vec<u8> = settings
        .iter()
        .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
        .collect();
    let begin =
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, &payload)[..]].concat();
    stream.write_all(&begin).await.unwrap();
    stream
}

/// Writes for as long as somebody listens and reads meanwhile; the kinds of the frames that came.
async fn fight(stream: TcpStream, attack: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    let (mut reader, mut writer) = stream.into_split();
    let write = async {
        for bytes in attack {
            if writer.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    let read = async {
        let mut kinds = Vec::new();
        let mut head = [0; 9];
        while reader.read_exact(&mut head).await.is_ok() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            if reader.read_exact(&mut payload).await.is_err() {
                break;
            }
            kinds.push(head[3]);
        }
        kinds
    };
    let both = async { tokio::join!(write, read).1 };
    timeout(PATIENCE, both).await.expect("an end in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn h2_rapid_reset() {
    let prey = Prey::start().await;
    let cancel = 8_u32.to_be_bytes();
    let request = head("/v1/agents");
    let rush = (0..100_000_u32).map(|number| {
        let id = 2 * number + 1;
        let open = frame(HEADERS, END_HEADERS | END_STREAM, id, &request);
        [open, frame(RST_STREAM, 0, id, &cancel)].concat()
    });
    // Many in one write, as the attack does.
    let rush: Vec<_> = rush.collect::<Vec<_>>().chunks(500).map(<[_]>::concat).collect();
    let all = (0..4).map(|_| async {
        let stream = raw(&prey.address, &[]).await;
        let kinds = fight(stream, rush.iter().cloned()).await;
        assert!(kinds.contains(&GOAWAY), "no GOAWAY, but {kinds:?}");
    });
    join_all(all).await;
    prey.end("rapid reset").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h2_floods() {
    let prey = Prey::start().await;
    let address = &prey.address;
    // A head without an end.
    let open = frame(HEADERS, END_STREAM, 1, &head("/v1/agents"));
    let field = [&[0x00, 0x01, b'x', 0x7f, 0x99, 0x74][..], &[b'a'; 15_000]].concat();
    let more = frame(CONTINUATION, 0, 1, &field);
    let endless = std::iter::once(open).chain(std::iter::repeat_n(more, 10_000));
    let kinds = fight(raw(address, &[]).await, endless).await;
    assert!(kinds.contains(&GOAWAY), "no GOAWAY, but {kinds:?}");

    // Answers that are never taken: no window for any stream.
    let shut = raw(address, &[(4, 0)]).await;
    let (_reader, mut writer) = shut.into_split();
    for number in 0..1000 {
        let open = frame(HEADERS, END_HEADERS | END_STREAM, 2 * number + 1, &head("/openapi.json"));
        writer.write_all(&open).await.unwrap();
    }
    // Pings that nobody asked for, and data for streams that were never opened.
    let pings = std::iter::repeat_n(frame(PING, 0, 0, &[0; 8]).repeat(1000), 100);
    let mut deaf = raw(address, &[]).await;
    for ping in pings {
        if !matches!(timeout(HEAD, deaf.write_all(&ping)).await, Ok(Ok(()))) {
            break;
        }
    }
    let stray = std::iter::once(frame(DATA, 0, 1, &[0; 1000]));
    let kinds = fight(raw(address, &[]).await, stray).await;
    assert!(kinds.contains(&GOAWAY), "no GOAWAY, but {kinds:?}");
    assert_eq!(get(address, "/v1/agents").await.status, 200);
    drop((writer, deaf));
    prey.end("floods of HTTP/2").await;
}
