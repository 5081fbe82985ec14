//! The plots of docs/performance.md, as SVG: rows from above to below, each with its name on the
//! left.
//!
//! Invariant: what has no figure is left out; texts are text, which needs no font here.

use std::{fs, ops::Range, path::Path};

use plotters::{
    coord::{Shift, types::RangedCoordf64},
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    Report,
    text::{figure, target},
};
use crate::{
    Result,
    measure::count_of,
    row::{Measured, Spread, Target, Unit, Verdict},
};

const WIDTH: u32 = 900;
const TOP: u32 = 84;
const BOTTOM: u32 = 48;
const LEFT: u32 = 140;
const RIGHT: u32 = 150;
/// Of a row.
const HEIGHT: u32 = 40;

const INK: RGBColor = RGBColor(34, 40, 49);
const FAINT: RGBColor = RGBColor(226, 230, 235);
const OURS: RGBColor = RGBColor(31, 95, 168);
const LIMIT: RGBColor = RGBColor(140, 150, 162);
const PEER: RGBColor = RGBColor(217, 119, 30);
const OK: RGBColor = RGBColor(46, 139, 87);
const SHORT: RGBColor = RGBColor(224, 165, 0);
const HALF: RGBColor = RGBColor(192, 57, 43);

/// A ratio to the target beyond this is as good as this.
const MOST: f64 = 2.5;

/// Draws `ratios.svg`, `rates.svg` and `times.svg` into a folder.
pub(crate) fn draw(report: &Report, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let all = &report.measured;
    let has_figures = |row: &&Measured| row.ours().median.is_finite();
    let of = |unit| all.iter().filter(has_figures).filter(move |row| row.row.unit == unit);
    ratios(&all.iter().filter(has_figures).collect::<Vec<_>>(), &folder.join("ratios.svg"))?;
    rates(&of(Unit::PerSecond).collect::<Vec<_>>(), &folder.join("rates.svg"))?;
    times(&of(Unit::Millis).collect::<Vec<_>>(), &folder.join("times.svg"))
}

/// How each row stands to its target: 1 is met, for rates and for times.
fn ratios(rows: &[&Measured], file: &Path) -> Result<()> {
    let title = "What each row reaches of its target";
    let label = "1 = target met, further right is better; whiskers: all rounds";
    let plot = Plot::new(file, title, label, rows, 0.0..MOST, &|x| format!("{x:.1}"))?;
    plot.legend(&[("met", OK), ("short", SHORT), ("below half", HALF)])?;
    for (i, row) in rows.iter().enumerate() {
        let reached = reached(row);
        let colour = match row.verdict() {
            Verdict::Ok => OK,
            Verdict::Short => SHORT,
            Verdict::Half => HALF,
        };
        plot.bar(i, 0, 18, reached.median.min(MOST), colour)?;
        plot.whisker(i, reached.min.min(MOST), reached.max.min(MOST))?;
        let judged = row.judged().median;
        let text = format!("{}  ({})", figure(judged), target(row.row.target, row.row.unit));
        plot.value(i, 0, MOST, &text)?;
    }
    plot.mark(1.0)?;
    plot.finish()
}

/// What is judged, as a part of the target.
fn reached(row: &Measured) -> Spread {
    let judged = row.judged();
    let one = |judged: f64| match row.row.target {
        Target::RatioAtLeast(least) => judged / least,
        Target::RatioAtMost(most) | Target::AtMost(most) => most / judged,
    };
    Spread::of([judged.min, judged.median, judged.max].map(one))
}

/// Ours, the limit and the peer, side by side.
fn rates(rows: &[&Measured], file: &Path) -> Result<()> {
    let most =
        rows.iter().flat_map(|row| figures(row)).map(|(_, _, rate)| rate).fold(1.0, f64::max);
    let (title, label) = ("Rates", "per second; further right is better");
    let plot = Plot::new(file, title, label, rows, 0.0..most, &|x| figure_of_axis(*x))?;
    plot.legend(&SERIES)?;
    for (i, row) in rows.iter().enumerate() {
        for (bar, colour, rate) in figures(row) {
            let at = 10 * (bar - 1);
            plot.bar(i, at, 8, rate, colour)?;
            plot.value(i, at, rate, &figure(rate))?;
        }
    }
    plot.finish()
}

/// The same of times: points, as a logarithmic axis has no beginning for a bar.
fn times(rows: &[&Measured], file: &Path) -> Result<()> {
    let all = || rows.iter().flat_map(|row| figures(row)).map(|(_, _, time)| time.log10());
    let first = all().fold(0.0, f64::min).floor();
    let last = all().fold(1.0, f64::max).ceil();
    let (title, label) = ("Times", "milliseconds, logarithmic; further left is better");
    let power = |x: &f64| match (x - x.round()).abs() < 1e-6 {
        true => figure_of_axis(10f64.powf(*x)),
        false => String::new(),
    };
    let plot = Plot::new(file, title, label, rows, first..last, &power)?;
    plot.legend(&SERIES[..2])?;
    for (i, row) in rows.iter().enumerate() {
        for (_, colour, time) in figures(row) {
            plot.point(i, time.log10(), colour)?;
        }
        let times = figures(row).into_iter().map(|(_, _, time)| figure(time));
        plot.value(i, 0, last, &(times.collect::<Vec<_>>().join(" / ") + " ms"))?;
    }
    plot.finish()
}

const SERIES: [(&str, RGBColor); 3] = [("ours", OURS), ("limit", LIMIT), ("oslo.messaging", PEER)];

/// What a row has of [`SERIES`]: which, its colour, its median.
fn figures(row: &Measured) -> Vec<(i32, RGBColor, f64)> {
    let all = [(0, OURS, Some(row.ours())), (1, LIMIT, row.limit()), (2, PEER, row.peer())];
    all.into_iter().filter_map(|(i, colour, of)| Some((i, colour, of?.median))).collect()
}

fn figure_of_axis(value: f64) -> String {
    if value >= 1000.0 { figure(value) } else { format!("{value}") }
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a> = ChartContext<'a, SVGBackend<'a>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// A plot whose rows have names.
struct Plot<'a> {
    area: Area<'a>,
    chart: Chart<'a>,
    rows: usize,
}

impl<'a> Plot<'a> {
    fn new(
        file: &'a Path,
        title: &str,
        label: &str,
        rows: &[&Measured],
        span: Range<f64>,
        format: &dyn Fn(&f64) -> String,
    ) -> Result<Self> {
        let count = u32::try_from(rows.len().max(1))?;
        let size = (WIDTH, TOP + BOTTOM + HEIGHT * count);
        let area = SVGBackend::new(file, size).into_drawing_area();
        area.fill(&WHITE)?;
        area.draw(&Text::new(title.to_owned(), (20, 16), words(22)))?;
        let mut chart = ChartBuilder::on(&area)
            .margin_top(TOP)
            .margin_right(RIGHT)
            .x_label_area_size(BOTTOM)
            .y_label_area_size(LEFT)
            .build_cartesian_2d(span, 0.0..f64::from(count))?;
        chart
            .configure_mesh()
            .disable_y_mesh()
            .y_labels(0)
            .light_line_style(TRANSPARENT)
            .bold_line_style(FAINT)
            .axis_style(INK)
            .x_labels(8)
            .x_label_formatter(format)
            .label_style(words(14))
            .x_desc(label)
            .axis_desc_style(words(14))
            .draw()?;
        let plot = Self { area, chart, rows: rows.len() };
        for (i, row) in rows.iter().enumerate() {
            let (_, y) = plot.place(i, 0.0);
            let style = words(15).pos(Pos::new(HPos::Right, VPos::Center));
            plot.area.draw(&Text::new(row.row.name, (LEFT.cast_signed() - 10, y), style))?;
        }
        Ok(plot)
    }

    /// Where the middle of a row is, at a value.
    fn place(&self, row: usize, value: f64) -> (i32, i32) {
        self.chart.backend_coord(&(value, count_of(self.rows - row) - 0.5))
    }

    fn bar(&self, row: usize, below: i32, high: i32, value: f64, colour: RGBColor) -> Result<()> {
        let ((from, y), (to, _)) = (self.place(row, 0.0), self.place(row, value));
        let corners = [(from, y + below - high / 2), (to, y + below + high / 2)];
        Ok(self.area.draw(&Rectangle::new(corners, colour.filled()))?)
    }

    fn whisker(&self, row: usize, from: f64, to: f64) -> Result<()> {
        let ((from, y), (to, _)) = (self.place(row, from), self.place(row, to));
        for ends in
            [[(from, y), (to, y)], [(from, y - 4), (from, y + 4)], [(to, y - 4), (to, y + 4)]]
        {
            self.area.draw(&PathElement::new(ends.to_vec(), INK.stroke_width(1)))?;
        }
        Ok(())
    }

    fn point(&self, row: usize, value: f64, colour: RGBColor) -> Result<()> {
        Ok(self.area.draw(&Circle::new(self.place(row, value), 6, colour.filled()))?)
    }

    /// A text right of a value.
    fn value(&self, row: usize, below: i32, value: f64, text: &str) -> Result<()> {
        let (x, y) = self.place(row, value);
        let style = words(13).pos(Pos::new(HPos::Left, VPos::Center));
        Ok(self.area.draw(&Text::new(text.to_owned(), (x + 9, y + below), style))?)
    }

    /// A line through all rows.
    fn mark(&self, value: f64) -> Result<()> {
        let ((x, top), (_, bottom)) = (self.place(0, value), self.place(self.rows, value));
        let half = HEIGHT.cast_signed() / 2;
        let ends = vec![(x, top - half), (x, bottom - half)];
        Ok(self.area.draw(&PathElement::new(ends, INK.stroke_width(2)))?)
    }

    fn legend(&self, entries: &[(&str, RGBColor)]) -> Result<()> {
        let mut x = LEFT.cast_signed();
        for (name, colour) in entries {
            self.area.draw(&Rectangle::new([(x, 56), (x + 14, 68)], colour.filled()))?;
            let style = words(14).pos(Pos::new(HPos::Left, VPos::Center));
            self.area.draw(&Text::new((*name).to_owned(), (x + 20, 62), style))?;
            x += 60 + 8 * i32::try_from(name.len())?;
        }
        Ok(())
    }

    fn finish(self) -> Result<()> {
        Ok(self.area.present()?)
    }
}

fn words(size: i32) -> TextStyle<'static> {
    ("sans-serif", size).into_font().color(&INK)
}

#[cfg(test)]
mod tests {
    use super::{super::tests::made_up, *};

    #[test]
    fn all_plots_are_drawn_and_name_their_rows() {
        let folder = tempfile::tempdir().unwrap();
        let folder = std::env::var_os("BENCH_PLOTS").map_or(folder.path().to_owned(), Into::into);
        draw(&made_up(), &folder).unwrap();
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert!(read("ratios.svg").contains("idle.memory"));
        assert!(read("rates.svg").contains("oslo.messaging"));
        assert!(read("times.svg").contains("call.one") && !read("times.svg").contains("broken"));
    }

    #[test]
    fn more_is_better_for_rates_and_for_times() {
        let report = made_up();
        let of =
            |name: &str| reached(report.measured.iter().find(|row| row.row.name == name).unwrap());
        assert!((of("call").median - 0.86 / 0.8).abs() < 0.01);
        assert!((of("request").median - 1.5 / 2.095).abs() < 0.01);
        assert!(of("request").min < of("request").max);
    }
}
