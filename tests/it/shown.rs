//! What a page shows — commands and what they print — and how it is compared with what is printed.

use std::path::PathBuf;

/// A command with what the page shows of its output.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) command: String,
    pub(crate) output: Vec<String>,
}

/// A file of the repository.
pub(crate) fn file(path: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The commands of a console block. One that ends in a backslash, or within quotes, goes on in the
/// next line.
pub(crate) fn commands<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<Shown> {
    let open = |command: &str| command.ends_with('\\') || command.matches('\'').count() % 2 == 1;
    let mut shown: Vec<Shown> = Vec::new();
    for line in lines {
        match shown.last_mut() {
            Some(last) if open(&last.command) => {
                last.command.push('\n');
                last.command.push_str(line);
            }
            last => match (line.strip_prefix("$ "), last) {
                (Some(command), _) => {
                    shown.push(Shown { command: command.to_owned(), output: Vec::new() });
                }
                (None, Some(last)) => last.output.push(line.to_owned()),
                (None, None) => {}
            },
        }
    }
    shown
}

/// What differs from run to run: ids, pids, times, folders.
pub(crate) fn blurred(line: &str) -> String {
    let mut words = Vec::new();
    for word in line.split_whitespace() {
        let bare = word.trim_matches(|c: char| ",\"".contains(c));
        let is_id = bare.len() == 32 && bare.chars().all(|c| c.is_ascii_hexdigit());
        let is_time = bare.len() == 20 && bare.ends_with('Z') && bare.contains('T');
        let blur = is_id || is_time || bare.contains("/gop-dev-");
        words.push(if blur { "…" } else { word });
    }
    // A deleted agent goes offline a moment after the answer to its delete.
    let leaving = words.contains(&"DELETED");
    for word in &mut words {
        if leaving && ["yes", "no"].contains(word) {
            *word = "…";
        }
    }
    // What a process is and uses, and how long something took.
    for i in 1..words.len() {
        if words[i - 1] == "after" && words[i].trim_end_matches(':').ends_with('s') {
            words[i] = "…";
        }
        if words[i - 1] == "pid" && words[i].parse::<u32>().is_ok() {
            words[i] = "…";
        }
        // Beside the address that it has bound.
        if words[i - 1].starts_with("127.0.0.1") && words[i].parse::<u32>().is_ok() {
            words[i] = "…";
        }
    }
    let line = words.join(" ");
    for field in ["\"pid\":", "pid:", "uptime:", "cpu:", "memory:", "processes:"] {
        if line.starts_with(field) {
            return format!("{field} …");
        }
    }
    line
}

/// The ids and hashes that a page shows, and what they are in this run: who follows a page copies
/// what he got.
#[derive(Debug, Default)]
pub(crate) struct Ids(Vec<(String, String)>);

impl Ids {
    /// What a page says, as it is in this run.
    pub(crate) fn here(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (shown, is)| text.replace(shown, is))
    }

    /// Takes those that are new in what is shown for those that are new in what was printed, in
    /// their order.
    pub(crate) fn learn(&mut self, shown: &str, printed: &str) {
        for length in [36, 64] {
            let shown = ids(shown, length, |id| self.0.iter().any(|(shown, _)| shown == id));
            let printed = ids(printed, length, |id| self.0.iter().any(|(_, is)| is == id));
            self.0.extend(shown.into_iter().zip(printed));
        }
    }
}

/// UUIDs and hashes of a text that are not known, by their length.
fn ids(text: &str, length: usize, known: impl Fn(&str) -> bool) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for word in text.split(|c: char| !c.is_ascii_hexdigit() && c != '-') {
        let dashes = if length == 36 { 4 } else { 0 };
        let is_id = word.len() == length && word.matches('-').count() == dashes;
        if is_id && !known(word) && ids.iter().all(|id| id != word) {
            ids.push(word.to_owned());
        }
    }
    ids
}

#[test]
fn an_id_of_a_page_is_that_of_the_run() {
    let [a, b] = ["4d34f59a-0190-843a-84d7-4705edfb0508", "a152170f-90aa-8809-95f6-c80fafb9326f"];
    let (hash, other) = ("0".repeat(64), "1".repeat(64));
    let mut ids = Ids::default();
    ids.learn(&format!("{a} is --plan-hash {hash}"), &format!("{{\"id\":\"{b}\"}} {other}"));
    assert_eq!(
        ids.here(&format!("gop request show {a} {hash}")),
        format!("gop request show {b} {other}")
    );
    ids.learn(a, &other);
    assert_eq!(ids.here(a), b);
}
