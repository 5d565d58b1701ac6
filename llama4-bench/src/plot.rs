//! Runs as an SVG: bars grouped by case, on a logarithmic scale.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::series::{self, Columns, Row, Series};
use crate::table::number;

/// Sizes in pixels.
const WIDTH: f64 = 1120.0;
const LEFT: f64 = 480.0;
const RIGHT: f64 = 90.0;
const TOP: f64 = 64.0;
const BAR: f64 = 13.0;
const GROUP_GAP: f64 = 9.0;
const LEGEND_LINE: f64 = 20.0;
const PANEL_HEAD: f64 = 44.0;
const AXIS: f64 = 30.0;

/// Colours that people who see colours differently tell apart (Okabe and Ito).
const COLOURS: [&str; 7] = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000"];

/// Draw files and write the image.
pub(crate) fn plot(files: &[PathBuf], columns: Columns, title: &str, output: &Path) -> Result<()> {
    let series = series::read(files, columns)?;
    let image = draw(&series, title)?;
    let unfinished = output.with_extension("svg.part");
    fs::write(&unfinished, image)
        .and_then(|()| fs::rename(&unfinished, output))
        .with_context(|| format!("cannot write {}", output.display()))
}

/// Cases of one model that count the same; each panel has its own scale.
fn panels(rows: &[Row]) -> Vec<Vec<&Row>> {
    let mut panels: Vec<Vec<&Row>> = Vec::new();
    for row in rows {
        match panels.iter_mut().find(|panel| panel[0].shape == row.shape && panel[0].unit == row.unit) {
            Some(panel) => panel.push(row),
            None => panels.push(vec![row]),
        }
    }
    panels
}

fn draw(series: &[Series], title: &str) -> Result<String> {
    let rows = series::rows(series);
    let panels = panels(&rows);
    ensure!(!panels.is_empty(), "there is nothing to draw");
    let legend = TOP + LEGEND_LINE * series.len() as f64;
    let body: f64 = panels.iter().map(|panel| height(panel, series)).sum();
    let total = legend + body + 16.0;
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{total}" viewBox="0 0 {WIDTH} {total}" font-family="Helvetica, Arial, DejaVu Sans, sans-serif" font-size="13" role="img">"#
    );
    let _ = writeln!(svg, r#"<rect width="100%" height="100%" fill="white"/>"#);
    text(&mut svg, [24.0, 34.0], "start", r#"font-size="20" font-weight="bold""#, title);
    for (index, series) in series.iter().enumerate() {
        let y = TOP + LEGEND_LINE * index as f64;
        let _ = writeln!(svg, r#"<rect x="24" y="{}" width="12" height="12" fill="{}"/>"#, y - 10.0, colour(index));
        text(&mut svg, [44.0, y], "start", "", &series.label);
    }
    let mut top = legend;
    for panel in &panels {
        draw_panel(&mut svg, panel, series, top);
        top += height(panel, series);
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

fn colour(index: usize) -> &'static str {
    COLOURS[index % COLOURS.len()]
}

/// Bars of a case: one for each series that has it.
fn bars<'a>(row: &'a Row, series: &'a [Series]) -> impl Iterator<Item = (usize, &'a crate::record::Record)> {
    series.iter().enumerate().filter_map(|(index, series)| Some((index, series.find(row)?)))
}

fn height(panel: &[&Row], series: &[Series]) -> f64 {
    let groups: f64 = panel.iter().map(|row| BAR * bars(row, series).count() as f64 + GROUP_GAP).sum();
    PANEL_HEAD + groups + AXIS
}

/// The powers of ten around some rates: the scale's ends.
fn scale(rates: impl Iterator<Item = f64>) -> [i32; 2] {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for rate in rates.filter(|rate| *rate > 0.0) {
        (low, high) = (low.min(rate), high.max(rate));
    }
    if low > high {
        return [0, 1];
    }
    // A bar of no length would be read as nothing measured: the scale begins well below the lowest.
    let first = (low / 1.5).log10().floor() as i32;
    [first, (high.log10().ceil() as i32).max(first + 1)]
}

fn draw_panel(svg: &mut String, panel: &[&Row], series: &[Series], top: f64) {
    let rates = panel.iter().flat_map(|row| bars(row, series)).flat_map(|(_, record)| [record.p10, record.p90]);
    let [first, last] = scale(rates);
    let width = WIDTH - LEFT - RIGHT;
    let place = |rate: f64| {
        let share = (rate.max(f64::MIN_POSITIVE).log10() - f64::from(first)) / f64::from(last - first);
        LEFT + width * share.clamp(0.0, 1.0)
    };
    let (begin, end) = (top + PANEL_HEAD, top + height(panel, series) - AXIS);
    let heading = format!("{}: {} (logarithmic; the thin line is p10 to p90)", panel[0].shape, panel[0].unit);
    text(svg, [24.0, top + 28.0], "start", r#"font-size="15" font-weight="bold""#, &heading);
    for power in first..=last {
        let x = place(10_f64.powi(power));
        let _ = writeln!(
            svg,
            r##"<line x1="{x:.1}" x2="{x:.1}" y1="{begin}" y2="{end}" stroke="#cccccc" stroke-width="1"/>"##
        );
        text(svg, [x, end + 16.0], "middle", r##"fill="#444444""##, &tick(power));
    }
    let mut y = begin + GROUP_GAP / 2.0;
    for row in panel {
        let count = bars(row, series).count() as f64;
        text(svg, [LEFT - 10.0, y + BAR * count / 2.0 + 4.5], "end", "", &row.case);
        for (index, record) in bars(row, series) {
            let length = place(record.median) - LEFT;
            let middle = y + BAR / 2.0;
            let fill = colour(index);
            let _ = writeln!(
                svg,
                r#"<rect x="{LEFT}" y="{:.1}" width="{length:.1}" height="{:.1}" fill="{fill}"/>"#,
                y + 1.0,
                BAR - 2.0
            );
            let _ = writeln!(
                svg,
                r##"<line x1="{:.1}" x2="{:.1}" y1="{middle:.1}" y2="{middle:.1}" stroke="#333333" stroke-width="1.5"/>"##,
                place(record.p10),
                place(record.p90)
            );
            let after = place(record.p90).max(LEFT + length) + 6.0;
            text(svg, [after, middle + 4.0], "start", r#"font-size="11""#, &number(record.median));
            y += BAR;
        }
        y += GROUP_GAP;
    }
}

/// A power of ten in digits where those are few.
fn tick(power: i32) -> String {
    match power {
        -3..=5 => format!("{}", 10_f64.powi(power)),
        _ => format!("1e{power}"),
    }
}

fn text(svg: &mut String, [x, y]: [f64; 2], anchor: &str, style: &str, words: &str) {
    let words = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(svg, r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" {style}>{words}</text>"#);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::case::Case;
    use crate::record::example;
    use crate::series::of_records;

    #[test]
    fn scales_hold_all_rates_and_begin_below_them() {
        assert_eq!(scale([12.0, 900.0].into_iter()), [0, 3]);
        assert_eq!(scale([20.0, 900.0].into_iter()), [1, 3]);
        assert_eq!(scale([100.0].into_iter()), [1, 2]);
        assert_eq!(scale(std::iter::empty()), [0, 1]);
    }

    #[test]
    fn each_measurement_has_a_bar_as_long_as_its_logarithm() {
        let (prefill, decode) = (Case::Prefill { tokens: 128 }, Case::Decode { sequences: 1, depth: 0, tokens: 32 });
        let series = of_records(
            &[
                ("a", &[example("ndarray", prefill, 1000.0), example("ndarray", decode, 100.0)]),
                ("b", &[example("cuda", prefill, 10_000.0)]),
            ],
            Columns::Backends,
        );
        let svg = draw(&series, "A & B").unwrap();
        assert!(svg.contains("A &amp; B") && svg.contains("prefill 128") && svg.contains(">10000<"), "{svg}");
        let widths: Vec<f64> = svg
            .lines()
            .filter(|line| line.starts_with("<rect") && line.contains(&format!("x=\"{LEFT}\"")))
            .map(|line| line.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap())
            .collect();
        // From 10 to 100000: a quarter of the width each power.
        let quarter = (WIDTH - LEFT - RIGHT) / 4.0;
        let expected = [2.0, 3.0, 1.0].map(|powers| powers * quarter);
        assert!(widths.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 0.1), "{widths:?}");
        assert_eq!(widths.len(), 3);
    }
}
