//! Charts as SVG. Everything in one is also in a table or in its description: a chart is never the only place of a figure.

use maud::{Markup, html};

use super::layout::bytes;

const WIDTH: u32 = 640;
const HEIGHT: u32 = 220;
const LEFT: u32 = 76;
const BOTTOM: u32 = 24;
const TOP: u32 = 10;

/// A line of a chart: its name, the class by which it is styled, and a value for each label.
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) class: &'static str,
    pub(super) values: Vec<u64>,
}

fn x(at: usize, of: usize) -> f64 {
    let room = f64::from(WIDTH - LEFT - 8);
    f64::from(LEFT) + if of < 2 { room / 2.0 } else { room * at as f64 / (of - 1) as f64 }
}

fn y(value: u64, most: u64) -> f64 {
    let room = f64::from(HEIGHT - BOTTOM - TOP);
    f64::from(TOP) + room * (1.0 - value as f64 / most.max(1) as f64)
}

/// Draws lines over days; values are bytes.
pub(super) fn lines(id: &str, title: &str, labels: &[String], series: &[Series]) -> Markup {
    let most = series.iter().flat_map(|one| &one.values).copied().max().unwrap_or(0);
    let last =
        |one: &Series| one.values.last().map_or_else(String::new, |value| format!("{} {}", one.name, bytes(*value)));
    let description: Vec<String> = series.iter().map(last).collect();
    let points = |one: &Series| {
        let of = one.values.len();
        let points = one.values.iter().enumerate();
        points.map(|(at, value)| format!("{:.1},{:.1}", x(at, of), y(*value, most))).collect::<Vec<_>>().join(" ")
    };
    html! {
        figure class="chart" {
            figcaption { (title) }
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) role="img" aria-labelledby=(format!("{id}-title")) {
                title id=(format!("{id}-title")) { (title) ": the last values are " (description.join(", ")) }
                @for part in 0..=4u64 {
                    @let value = most / 4 * part;
                    @let at = format!("{:.1}", y(value, most));
                    line class="grid" x1=(LEFT) x2=(WIDTH - 8) y1=(at) y2=(at) {}
                    text class="axis" x=(LEFT - 6) y=(at) text-anchor="end" dominant-baseline="middle" { (bytes(value)) }
                }
                @for (at, label) in labels.iter().enumerate() {
                    @let every = labels.len().div_ceil(6).max(1);
                    @if at % every == 0 {
                        text class="axis" x=(format!("{:.1}", x(at, labels.len()))) y=(HEIGHT - 6) text-anchor="middle" {
                            (label.get(5..).unwrap_or(label))
                        }
                    }
                }
                @for one in series {
                    @if one.values.len() == 1 {
                        circle class=(one.class) cx=(format!("{:.1}", x(0, 1))) cy=(format!("{:.1}", y(one.values[0], most))) r="4" {}
                    } @else {
                        polyline class=(one.class) points=(points(one)) {}
                    }
                }
            }
            ul class="legend" {
                @for one in series { li class=(one.class) { (one.name) } }
            }
        }
    }
}

/// A bar: what it is, its value, and what stands beside it.
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) value: u64,
    pub(super) note: String,
    pub(super) class: &'static str,
}

/// Draws bars one below the other, the longest as wide as there is room.
pub(super) fn bars(title: &str, bars: &[Bar]) -> Markup {
    let most = bars.iter().map(|bar| bar.value).max().unwrap_or(0).max(1);
    html! {
        table class="bars" {
            caption { (title) }
            tbody {
                @for bar in bars {
                    tr {
                        th scope="row" { (bar.name) }
                        td class="bar" {
                            svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true" {
                                rect class=(bar.class) x="0" y="0" height="10"
                                    width=(format!("{:.2}", 100.0 * bar.value as f64 / most as f64)) {}
                            }
                        }
                        td class="number" { (bytes(bar.value)) }
                        td class="quiet" { (bar.note) }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_stay_within_the_picture() {
        let series = [
            Series { name: "a", class: "one", values: vec![0, 5, 10] },
            Series { name: "b", class: "two", values: vec![10, 0, u64::MAX] },
        ];
        let labels = ["2026-11-01", "2026-11-02", "2026-11-03"].map(str::to_owned);
        let drawn = lines("c", "t", &labels, &series).into_string();
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        for points in drawn.split("points=\"").skip(1) {
            for point in points.split('"').next().unwrap().split(' ') {
                let (x, y) = point.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((0.0..=640.0).contains(&x) && (0.0..=220.0).contains(&y), "{point}");
            }
        }
        let empty = lines("c", "t", &[], &[]).into_string();
        assert!(empty.contains("<svg"));
    }
}
