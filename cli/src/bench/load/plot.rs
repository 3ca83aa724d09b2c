//! The figures as a drawing: latencies above, goodput below.

use std::path::Path;

use foreturn::{Error, ErrorKind, Result, files};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::super::Percentiles;
use super::Report;

const SIZE: (u32, u32) = (860, 680);
const COLOURS: [RGBColor; 3] = [RGBColor(31, 111, 180), RGBColor(196, 107, 26), RGBColor(180, 40, 60)];

/// A curve.
struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
    colour: RGBColor,
    /// Of the second target.
    is_against: bool,
}

/// Writes the drawing to `path`. Across are the rates; where there is only one, the seconds of the run.
pub(super) fn write(path: &Path, report: &Report) -> Result<()> {
    let mut svg = String::new();
    let failed = |e: &dyn std::fmt::Display| Error::new(ErrorKind::Internal, format!("the plot can't be drawn: {e}"));
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(|e| failed(&e))?;
        let (above, below) = area.split_vertically(SIZE.1 / 2);
        let across = if is_sweep(report) { "requests that arrive in a second" } else { "seconds" };
        panel(&above, across, "latency, ms", &latencies(report)).map_err(|e| failed(&e))?;
        panel(&below, across, "answered in time, a second", &goodputs(report)).map_err(|e| failed(&e))?;
        area.present().map_err(|e| failed(&e))?;
    }
    files::replace(path, |out| out.write_all(svg.as_bytes()).map_err(|e| Error::io("write", path, e)))
}

fn is_sweep(report: &Report) -> bool {
    report.rates.len() > 1
}

/// For each target, the points of a figure that a rate has, and a part of a run as well.
fn points(report: &Report, target: usize, of: impl Fn(&Percentiles, f64) -> Option<f64>) -> Vec<(f64, f64)> {
    if is_sweep(report) {
        let point = |rate: &super::Rate| {
            let figures = &rate.results[target];
            Some((rate.rate?, of(&figures.latency_seconds, figures.goodput_per_second)?))
        };
        return report.rates.iter().filter_map(point).collect();
    }
    let parts = report.rates.iter().flat_map(|rate| &rate.results[target].parts);
    parts.filter_map(|part| Some((part.from_second, of(&part.latency_seconds, part.goodput_per_second)?))).collect()
}

/// The end of a curve's name, where there are two targets.
fn of_target(report: &Report, target: usize) -> String {
    if report.targets.len() > 1 { format!(", {}", report.targets[target]) } else { String::new() }
}

fn latencies(report: &Report) -> Vec<Curve> {
    type Share = fn(&Percentiles) -> Option<f64>;
    let shares: [(&str, Share); 3] = [("p50", |p| p.p50), ("p95", |p| p.p95), ("p99", |p| p.p99)];
    let curve = |target: usize| {
        shares.into_iter().zip(COLOURS).map(move |((name, share), colour)| Curve {
            name: format!("{name}{}", of_target(report, target)),
            points: points(report, target, |latency, _| share(latency).map(|seconds| seconds * 1e3)),
            colour,
            is_against: target > 0,
        })
    };
    (0..report.targets.len()).flat_map(curve).collect()
}

fn goodputs(report: &Report) -> Vec<Curve> {
    let curve = |target: usize| Curve {
        name: format!("goodput{}", of_target(report, target)),
        points: points(report, target, |_, goodput| Some(goodput)),
        colour: COLOURS[0],
        is_against: target > 0,
    };
    let mut curves: Vec<Curve> = (0..report.targets.len()).map(curve).collect();
    if is_sweep(report) {
        let seconds = report.seconds * report.rounds as f64;
        let arrived = |rate: &super::Rate| Some((rate.rate?, rate.results.first()?.arrived as f64 / seconds));
        curves.push(Curve {
            name: "all that arrive".into(),
            points: report.rates.iter().filter_map(arrived).collect(),
            colour: RGBColor(150, 150, 150),
            is_against: true,
        });
    }
    curves
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn panel(area: &Area<'_>, across: &str, up: &str, curves: &[Curve]) -> Drawn {
    let points = || curves.iter().flat_map(|curve| curve.points.iter().copied());
    let greatest = |of: fn((f64, f64)) -> f64| points().map(of).fold(0.0_f64, f64::max).max(1e-3) * 1.05;
    let mut chart = ChartBuilder::on(area)
        .margin(14)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..greatest(|(x, _)| x), 0.0..greatest(|(_, y)| y))?;
    chart.configure_mesh().x_desc(across).y_desc(up).light_line_style(WHITE).draw()?;
    for curve in curves {
        let style = curve.colour.stroke_width(2);
        let line = curve.points.iter().copied();
        let drawn = match curve.is_against {
            true => chart.draw_series(DashedLineSeries::new(line, 6, 4, style))?,
            false => chart.draw_series(LineSeries::new(line, style))?,
        };
        drawn.label(curve.name.as_str()).legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
        chart.draw_series(curve.points.iter().map(|point| Circle::new(*point, 3, curve.colour.filled())))?;
    }
    chart.configure_series_labels().position(SeriesLabelPosition::UpperLeft).background_style(WHITE.mix(0.8)).draw()?;
    Ok(())
}
