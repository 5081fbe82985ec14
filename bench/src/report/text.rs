//! The table: for a terminal, and as Markdown for docs/performance.md.
//!
//! Invariant: both have the same cells; what is judged is never rounded so that it seems to be met.

use comfy_table::{Table, presets::NOTHING};

use super::{Machine, Report};
use crate::{
    row::{Measured, Spread, Target, Unit, Verdict},
    rows::Wanted,
};

const HEADERS: [&str; 8] = ["ROW", "OURS", "LIMIT", "RATIO", "SPREAD", "TARGET", "VERDICT", "PEER"];

/// The rows that there are.
pub(crate) fn list(wanted: &Wanted) -> String {
    let rows = wanted.rows().iter().map(|row| {
        let target = target(row.target, row.unit);
        [row.name.to_owned(), target, row.what.to_owned(), or_dash(row.against)]
    });
    plain(["ROW", "TARGET", "WHAT", "AGAINST"], rows)
}

/// A row that is done, on one line.
pub(crate) fn line(measured: &Measured) -> String {
    let [name, ours, limit, ratio, spread, target, verdict, _] = cells(measured);
    let against = if measured.row.target.is_ratio() {
        format!(", limit {limit}, ratio {ratio}")
    } else {
        String::new()
    };
    format!("{name}: {ours}{against} ({spread}), target {target}: {verdict}\n")
}

/// All that was measured, for a terminal.
pub(crate) fn table(report: &Report) -> String {
    let mut text = plain(HEADERS, report.measured.iter().map(cells)) + "\n";
    for measured in &report.measured {
        text += &format!("{}: {}\n", measured.row.name, about(measured));
        for detail in details(measured) {
            text += &format!("    {detail}\n");
        }
    }
    text + "\n" + &machine(&report.machine, report.stolen_percent) + "\n"
}

/// All that was measured, as a part of a document.
pub(crate) fn markdown(report: &Report) -> String {
    let line =
        |cells: [String; 8]| format!("| {} |\n", cells.map(|cell| escape(&cell)).join(" | "));
    let mut text = machine(&report.machine, report.stolen_percent) + "\n\n";
    text += &line(HEADERS.map(|header| header.to_lowercase()));
    text += "|---|--:|--:|--:|--:|--:|---|--:|\n";
    text.extend(report.measured.iter().map(cells).map(line));
    text += "\n";
    for measured in &report.measured {
        text += &format!("- `{}`: {}\n", measured.row.name, escape(&about(measured)));
        for detail in details(measured) {
            text += &format!("  - {}\n", escape(&detail));
        }
    }
    text
}

fn cells(measured: &Measured) -> [String; 8] {
    let (row, judged) = (&measured.row, measured.judged());
    let value = |spread: Option<Spread>| {
        spread.map_or_else(|| "-".to_owned(), |spread| with_unit(spread.median, row.unit))
    };
    let (ratio, spread) = match row.target.is_ratio() {
        true => (fixed(judged.median), format!("{}–{}", fixed(judged.min), fixed(judged.max))),
        false => ("-".to_owned(), format!("{}–{}", figure(judged.min), figure(judged.max))),
    };
    [
        row.name.to_owned(),
        with_unit(measured.ours().median, row.unit),
        value(measured.limit()),
        ratio,
        spread,
        target(row.target, row.unit),
        verdict(measured.verdict()).to_owned(),
        value(measured.peer()),
    ]
}

/// What it is, and against what.
fn about(measured: &Measured) -> String {
    let row = &measured.row;
    if row.against.is_empty() {
        row.what.to_owned()
    } else {
        format!("{}; against: {}", row.what, row.against)
    }
}

/// The parts of its limit, each with its own median, and what else there is to know.
fn details(measured: &Measured) -> Vec<String> {
    let parts = measured.rounds.first().map(|round| round.parts.as_slice()).unwrap_or_default();
    let parts = parts.iter().enumerate().map(|(i, part)| {
        let of_rounds = measured.rounds.iter().filter_map(|round| round.parts.get(i));
        let median = Spread::of(of_rounds.map(|part| part.value)).median;
        let times = if part.times == 1.0 { String::new() } else { format!("{} × ", part.times) };
        format!("{times}{}: {}", part.what, with_unit(median, measured.row.unit))
    });
    parts.chain(measured.notes.iter().cloned()).collect()
}

fn machine(machine: &Machine, stolen_percent: f64) -> String {
    let Machine {
        date,
        processor,
        processors,
        memory,
        kernel,
        rabbitmq,
        erlang,
        goperation,
        short,
    } = machine;
    let form = if *short { ", short form" } else { "" };
    format!(
        "{date}{form}: goperation {goperation}, RabbitMQ {rabbitmq}, Erlang {erlang}; {processors} × \
         {processor}, {memory:.1} GiB, Linux {kernel}, {stolen_percent:.1} % of its time stolen."
    )
}

pub(super) fn target(target: Target, unit: Unit) -> String {
    match target {
        Target::RatioAtLeast(least) => format!("≥ {least:.2}"),
        Target::RatioAtMost(most) => format!("≤ {most} ×"),
        Target::AtMost(most) => format!("≤ {most} {}", unit.symbol()),
    }
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Short => "short",
        Verdict::Half => "short, below half",
    }
}

fn with_unit(value: f64, unit: Unit) -> String {
    format!("{} {}", figure(value), unit.symbol())
}

/// A ratio.
fn fixed(value: f64) -> String {
    if value.is_finite() { format!("{value:.3}") } else { "-".to_owned() }
}

/// Three digits that say something, or all before the point.
pub(super) fn figure(value: f64) -> String {
    match value.abs() {
        size if !size.is_finite() => "-".to_owned(),
        size if size >= 1000.0 => thousands(value),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 || size == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn escape(cell: &str) -> String {
    cell.replace('|', "\\|")
}

/// A table without borders, whose lines are its rows.
fn plain<const N: usize>(
    headers: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(headers);
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::{super::tests::made_up, *};

    #[test]
    fn a_table_has_each_row_with_its_verdict() {
        let text = table(&made_up());
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
        let words = |name: &str| line(name).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words("call "), "call 7,400 /s 8,600 /s 0.860 0.835–0.895 ≥ 0.80 ok 790 /s");
        assert_eq!(words("request "), "request 440 ms 210 ms 2.095 2.032–2.179 ≤ 1.5 × short -");
        assert!(words("ports ").contains("≥ 0.50 short, below half"));
        assert_eq!(words("idle.memory "), "idle.memory 6.40 MiB - - 6.21–6.66 ≤ 15 MiB ok -");
        assert!(words("broken ").contains("short, below half"));
        assert!(text.contains("    2 × commit: 34,400 /s\n    p99 12.1 ms\n"));
        assert!(text.contains("Made Up 3000"));
    }

    #[test]
    fn markdown_has_the_same_cells() {
        let report = made_up();
        let text = markdown(&report);
        assert!(
            text.contains("| call | 7,400 /s | 8,600 /s | 0.860 | 0.835–0.895 | ≥ 0.80 | ok |")
        );
        let rows = text.lines().filter(|line| line.starts_with("| ")).count();
        assert_eq!(rows, report.measured.len() + 1);
        assert!(text.contains("what \\| it is"));
    }

    #[test]
    fn a_line_says_how_a_row_stands() {
        let report = made_up();
        assert_eq!(
            line(&report.measured[0]),
            "call: 7,400 /s, limit 8,600 /s, ratio 0.860 (0.835–0.895), target ≥ 0.80: ok\n"
        );
        assert_eq!(
            line(&report.measured[7]),
            "idle.memory: 6.40 MiB (6.21–6.66), target ≤ 15 MiB: ok\n"
        );
    }

    #[test]
    fn figures_have_three_digits_that_say_something() {
        let figures = [0.0, 0.0214, 1.234, 56.78, 321.4, 1234.4, 1_234_567.0, f64::NAN].map(figure);
        assert_eq!(figures, ["0.00", "0.021", "1.23", "56.8", "321", "1,234", "1,234,567", "-"]);
    }
}
