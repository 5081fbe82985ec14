//! The live view: a few lines of a terminal that are drawn again as things happen.
//!
//! Invariant: it is never higher or wider than the terminal, so that what is drawn again is what
//! was drawn; what agents say does not steer the terminal.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use crossterm::{
    cursor::MoveToPreviousLine,
    queue,
    terminal::{self, Clear, ClearType, DisableLineWrap, EnableLineWrap},
};
use goperation::v1::ResponseState;

use super::{
    tally::{Row, Tally},
    text,
};
use crate::output::one_line;

/// Characters of the bar.
const BAR: usize = 24;
/// Room that is left for what is not named.
const MORE: usize = 18;

/// What was drawn on a terminal.
#[derive(Debug, Default)]
pub(super) struct Screen {
    drawn: u16,
}

impl Screen {
    /// Draws over what was drawn before.
    pub(super) fn draw(&mut self, out: &mut impl Write, lines: &[String]) -> io::Result<()> {
        let mut frame = Vec::new();
        self.back(&mut frame)?;
        queue!(frame, DisableLineWrap)?;
        for line in lines {
            frame.extend_from_slice(line.as_bytes());
            queue!(frame, Clear(ClearType::UntilNewLine))?;
            frame.push(b'\n');
        }
        queue!(frame, Clear(ClearType::FromCursorDown), EnableLineWrap)?;
        self.drawn = u16::try_from(lines.len()).unwrap_or(u16::MAX);
        out.write_all(&frame)?;
        out.flush()
    }

    /// Takes away what was drawn.
    pub(super) fn clear(&mut self, out: &mut impl Write) -> io::Result<()> {
        let mut frame = Vec::new();
        self.back(&mut frame)?;
        queue!(frame, Clear(ClearType::FromCursorDown))?;
        self.drawn = 0;
        out.write_all(&frame)?;
        out.flush()
    }

    fn back(&self, frame: &mut Vec<u8>) -> io::Result<()> {
        // Back by none is back by one on a terminal.
        if self.drawn > 0 { queue!(frame, MoveToPreviousLine(self.drawn)) } else { Ok(()) }
    }
}

/// Columns and lines of the terminal.
pub(super) fn size() -> (usize, usize) {
    match terminal::size() {
        Ok((columns, lines)) if columns > 0 && lines > 0 => (columns.into(), lines.into()),
        _ => (80, 24),
    }
}

/// The lines of the view: what it is, how many are where, who failed, who is silent, who runs.
pub(super) fn frame(tally: &Tally, now: u64, (width, height): (usize, usize)) -> Vec<String> {
    let request = &tally.request;
    let counts = tally.counts();
    let batch = if tally.batch > 0 { format!("  batch {}", tally.batch) } else { String::new() };
    let mut lines = vec![
        format!(
            "{} on {}  {}{batch}  {}  {}",
            text::method(request),
            text::agents(counts.agents),
            text::state(request),
            text::took(request, now),
            request.id
        ),
        format!(
            "{}  {}",
            bar(counts.agents, counts.pending + counts.running),
            text::counts(&counts)
        ),
    ];
    let silent = silent(tally, width);
    let running = running(tally, width);
    // The line of the cursor is below the view.
    let room =
        height.saturating_sub(1 + lines.len() + silent.len() + usize::from(running.is_some()));
    lines.extend(failed(tally, room));
    lines.extend(silent);
    lines.extend(running);
    lines.truncate(height.saturating_sub(1).max(1));
    lines.iter().map(|line| one_line(line).chars().take(width).collect()).collect()
}

fn bar(all: i32, open: i32) -> String {
    let [all, open] = [all, open].map(|count| usize::try_from(count).unwrap_or_default());
    let done = all.saturating_sub(open);
    let filled = (done * BAR).checked_div(all).unwrap_or(BAR);
    format!("[{}{}] {done}/{all}", "#".repeat(filled), ".".repeat(BAR.saturating_sub(filled)))
}

/// A line for each that failed, as many as there is room for.
fn failed(tally: &Tally, room: usize) -> Vec<String> {
    let all: Vec<_> = tally.in_state(ResponseState::Failed).collect();
    let shown = if all.len() <= room { all.len() } else { room.saturating_sub(1) };
    let mut lines: Vec<_> = all
        .iter()
        .take(shown)
        .map(|(id, row)| {
            let why =
                if row.message.is_empty() { String::new() } else { format!(": {}", row.message) };
            format!("failed   {id} {}  {}{why}", row.host, row.reason)
        })
        .collect();
    if shown < all.len() && room > 0 {
        lines.push(format!("failed   … and {} more", all.len() - shown));
    }
    lines
}

/// A line for each reason to be silent, with the names.
fn silent(tally: &Tally, width: usize) -> Vec<String> {
    let mut reasons: BTreeMap<&str, Vec<(i32, &Row)>> = BTreeMap::new();
    for (id, row) in tally.in_state(ResponseState::Silent) {
        reasons.entry(row.reason.as_str()).or_default().push((id, row));
    }
    let line = |(reason, rows): (&str, Vec<(i32, &Row)>)| {
        let label = format!("silent   {reason} ({})", rows.len());
        names(&label, rows.iter().map(|(id, row)| format!("{id} {}", row.host)), width)
    };
    reasons.into_iter().map(line).collect()
}

/// A line with who runs, and how far they are.
fn running(tally: &Tally, width: usize) -> Option<String> {
    let rows: Vec<_> = tally.in_state(ResponseState::Running).collect();
    let name = |(id, row): &(i32, &Row)| match row.progress.as_str() {
        "" => format!("{id} {}", row.host),
        progress => format!("{id} {} {progress}", row.host),
    };
    let label = format!("running  ({})", rows.len());
    (!rows.is_empty()).then(|| names(&label, rows.iter().map(name), width))
}

/// As many names as fit into a line, and how many more there are.
fn names(label: &str, names: impl ExactSizeIterator<Item = String>, width: usize) -> String {
    let all = names.len();
    let mut line = label.to_owned();
    let mut length = label.chars().count();
    for (at, name) in names.enumerate() {
        let next = length + 2 + name.chars().count();
        let spare = if at + 1 < all { MORE } else { 0 };
        if next + spare > width {
            let comma = if at == 0 { ":" } else { "," };
            return format!("{line}{comma} … and {} more", all - at);
        }
        line = format!("{line}{} {name}", if at == 0 { ":" } else { "," });
        length = next;
    }
    line
}

#[cfg(test)]
mod tests {
    use goperation::{to_timestamp, v1::ResponseState::*};

    use super::{
        super::tally::tests::{event, request},
        *,
    };

    fn tally() -> Tally {
        let mut request = request(20);
        request.request_time = Some(to_timestamp(1_000));
        let mut tally = Tally::new(request);
        for id in 1..=6 {
            tally.take(&event(id, Succeeded, "", ""));
        }
        for id in 7..=9 {
            tally.take(&event(id, Failed, "METHOD_FAILED", "exit code 3\x1b[2J"));
        }
        for id in 10..=12 {
            tally.take(&event(id, Silent, "AGENT_OFFLINE", ""));
        }
        tally.take(&event(13, Silent, "AGENT_BUSY", ""));
        tally.take(&event(14, Running, "", ""));
        tally
    }

    #[test]
    fn failures_come_first_and_the_silent_have_names() {
        let lines = frame(&tally(), 13_000, (200, 50));
        assert_eq!(
            lines,
            [
                "sample.echo on 20 agents  RUNNING  12s  r1",
                "[###############.........] 13/20  6 succeeded, 3 failed, 4 silent, 1 running, \
                 6 not sent",
                "failed   7 h7  METHOD_FAILED: exit code 3 [2J",
                "failed   8 h8  METHOD_FAILED: exit code 3 [2J",
                "failed   9 h9  METHOD_FAILED: exit code 3 [2J",
                "silent   AGENT_BUSY (1): 13 h13",
                "silent   AGENT_OFFLINE (3): 10 h10, 11 h11, 12 h12",
                "running  (1): 14 h14",
            ]
        );
    }

    #[test]
    fn it_is_never_larger_than_the_terminal() {
        let tally = tally();
        for width in [1, 10, 40, 52, 80] {
            for height in [1, 2, 3, 7, 8, 9, 30] {
                let lines = frame(&tally, 13_000, (width, height));
                assert!(lines.len() < height.max(2), "{height}: {lines:?}");
                assert!(lines.iter().all(|l| l.chars().count() <= width), "{width}: {lines:?}");
            }
        }
        let lines = frame(&tally, 13_000, (48, 8));
        assert_eq!(
            lines[2..],
            [
                "failed   7 h7  METHOD_FAILED: exit code 3 [2J",
                "failed   … and 2 more",
                "silent   AGENT_BUSY (1): 13 h13",
                "silent   AGENT_OFFLINE (3): … and 3 more",
                "running  (1): 14 h14",
            ]
        );
    }

    #[test]
    fn names_fill_a_line() {
        let five = || (1..=5).map(|id| format!("{id} host{id}")).collect::<Vec<_>>().into_iter();
        assert_eq!(names("l", five(), 80), "l: 1 host1, 2 host2, 3 host3, 4 host4, 5 host5");
        let cut = names("l", five(), 40);
        assert_eq!(cut, "l: 1 host1, 2 host2, … and 3 more");
        assert_eq!(names("l", std::iter::empty::<String>(), 10), "l");
    }

    #[test]
    fn a_bar_of_none_is_full() {
        assert_eq!(bar(0, 0), format!("[{}] 0/0", "#".repeat(BAR)));
        assert_eq!(bar(10, 10), format!("[{}] 0/10", ".".repeat(BAR)));
    }

    #[test]
    fn what_was_drawn_is_drawn_over() {
        let mut screen = Screen::default();
        let mut drawn = |lines: &[&str]| {
            let mut out = Vec::new();
            let lines: Vec<_> = lines.iter().map(ToString::to_string).collect();
            screen.draw(&mut out, &lines).unwrap();
            String::from_utf8(out).unwrap()
        };
        let first = drawn(&["a", "b"]);
        assert!(!first.contains("\x1b[2F") && first.contains("a\x1b[K\nb\x1b[K\n"), "{first:?}");
        assert!(drawn(&["c"]).starts_with("\x1b[2F"));
        assert!(drawn(&["d"]).starts_with("\x1b[1F"));
        let mut out = Vec::new();
        screen.clear(&mut out).unwrap();
        assert_eq!(out, b"\x1b[1F\x1b[J");
    }
}
