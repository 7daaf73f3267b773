//! Latency over load as an SVG: one line per mode and percentile, both axes logarithmic.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::report::Median;

const SIZE: (u32, u32) = (860, 480);
const PERCENTILES: [(&str, u32); 2] = [("p50 ms", 3), ("p99 ms", 1)];

/// The chart of a ramp: at each step, how many items a second there were and how late they arrived.
///
/// # Errors
/// When there is nothing to draw.
pub fn latency_over_load(name: &str, medians: &[Median]) -> Result<String> {
    let lines = lines(medians);
    let points = || lines.iter().flat_map(|line| &line.points);
    let span = |pick: fn(&(f64, f64)) -> f64| {
        let (least, most) = points().map(pick).fold((f64::MAX, 0.0_f64), |(a, b), v| (a.min(v), b.max(v)));
        (least > 0.0 && most > 0.0).then(|| (least / 1.3)..(most * 1.3))
    };
    let (xs, ys) =
        span(|point| point.0).zip(span(|point| point.1)).ok_or_else(|| anyhow!("nothing to draw"))?;
    let mut svg = String::new();
    draw(&mut svg, name, &lines, xs, ys).map_err(|error| anyhow!("the chart cannot be drawn: {error}"))?;
    Ok(svg)
}

struct Line {
    label: String,
    color: RGBColor,
    width: u32,
    points: Vec<(f64, f64)>,
}

fn lines(medians: &[Median]) -> Vec<Line> {
    const COLORS: [RGBColor; 4] =
        [RGBColor(31, 119, 180), RGBColor(214, 39, 40), RGBColor(44, 160, 44), RGBColor(148, 103, 189)];
    let mut modes: Vec<&'static str> = medians.iter().map(Median::mode).collect();
    modes.dedup();
    modes.sort_unstable();
    modes.dedup();
    let mut lines = Vec::new();
    for (mode, color) in modes.into_iter().zip(COLORS.into_iter().cycle()) {
        for (name, width) in PERCENTILES {
            let of_mode = medians.iter().filter(|median| median.mode() == mode);
            let points: Vec<_> = of_mode
                .filter_map(|median| Some((median.figure("items/s")?, median.figure(name)?)))
                .collect();
            if !points.is_empty() {
                lines.push(Line { label: format!("{mode}, {name}"), color, width, points });
            }
        }
    }
    lines
}

fn draw(
    svg: &mut String,
    name: &str,
    lines: &[Line],
    xs: std::ops::Range<f64>,
    ys: std::ops::Range<f64>,
) -> Result<(), Box<dyn std::error::Error>> {
    let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("{name}: latency over load"), ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d(xs.log_scale(), ys.log_scale())?;
    let mut mesh = chart.configure_mesh();
    mesh.light_line_style(TRANSPARENT).bold_line_style(BLACK.mix(0.12));
    mesh.x_desc("items a second").y_desc("ms from an item's end to its arrival").draw()?;
    for line in lines {
        let style = line.color.stroke_width(line.width);
        let series = LineSeries::new(line.points.iter().copied(), style).point_size(3);
        let drawn = chart.draw_series(series)?;
        drawn.label(line.label.clone()).legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    let mut labels = chart.configure_series_labels();
    labels.position(SeriesLabelPosition::UpperLeft).border_style(BLACK.mix(0.3));
    labels.background_style(WHITE.mix(0.8)).draw()?;
    area.present()?;
    Ok(())
}
