//! Charts as SVG. Everything in one is also in a table or in its description: a chart is never the only place of a figure.

use maud::{Markup, html};

use super::layout::{bytes, count};

/// A line of a chart: its name, the class by which it is styled, and a value for each day.
pub(super) struct Series {
    pub(super) name: &'static str,
    pub(super) class: &'static str,
    pub(super) values: Vec<u64>,
}

/// Values over days.
pub(super) struct Lines<'a> {
    /// What its parts are called in the document.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// Days since 1970, in their order, and how they are written.
    pub(super) days: &'a [(i64, String)],
    pub(super) series: &'a [Series],
}

/// How large a picture is. There are two of each chart, since text in a picture shrinks with it.
struct Picture {
    class: &'static str,
    width: f64,
    height: f64,
    /// Names of days below it, at most.
    days: usize,
}

const PICTURES: [Picture; 2] = [
    Picture { class: "on-wide", width: 960.0, height: 280.0, days: 8 },
    Picture { class: "on-narrow", width: 360.0, height: 240.0, days: 3 },
];

const LEFT: f64 = 72.0;
const RIGHT: f64 = 12.0;
const BOTTOM: f64 = 26.0;
const TOP: f64 = 12.0;

/// Returns the lines of a grid for values up to `most`: round numbers from 0 on, the last one at `most` or above.
fn ticks(most: u64) -> Vec<u64> {
    let mut unit = 1u64;
    while most / unit >= 1024 && unit < 1 << 50 {
        unit *= 1024;
    }
    // Quarters of a unit, so that steps below one are whole numbers.
    let quarters = u128::from(most) * 4 / u128::from(unit) + 1;
    let steps = [1u128, 2, 4, 8, 20, 40, 80, 200, 400, 800, 1024, 2048];
    let step = steps.into_iter().find(|step| quarters.div_ceil(*step) <= 5).unwrap_or_else(|| quarters.div_ceil(5));
    let count = quarters.div_ceil(step).max(1);
    (0..=count).map(|n| u64::try_from(n * step * u128::from(unit) / 4).unwrap_or(u64::MAX)).collect()
}

/// Draws a chart as a wide and as a narrow picture, of which a page shows one; `told` is for those who see neither.
fn chart(id: &str, title: &str, told: &str, draw: &dyn Fn(&Picture) -> Markup, legend: &Markup) -> Markup {
    html! {
        figure class="chart" {
            figcaption { (title) }
            @for picture in &PICTURES {
                @let id = format!("{id}-{}", picture.class);
                svg class=(picture.class) viewBox=(format!("0 0 {} {}", picture.width, picture.height)) role="img" aria-labelledby=(id) {
                    title id=(id) { (told) }
                    (draw(picture))
                }
            }
            (legend)
        }
    }
}

impl Lines<'_> {
    /// Draws the lines; values are bytes.
    pub(super) fn draw(&self) -> Markup {
        let last = |one: &Series| one.values.last().map_or_else(String::new, |value| bytes(*value));
        let description: Vec<String> = self.series.iter().map(|one| format!("{} {}", one.name, last(one))).collect();
        let told = format!("{}. The last values: {}.", self.title, description.join(", "));
        let legend = html! {
            ul class="legend" {
                @for one in self.series { li class=(one.class) { (one.name) " " strong { (last(one)) } } }
            }
        };
        chart(self.id, self.title, &told, &|picture| self.drawing(picture), &legend)
    }

    fn drawing(&self, picture: &Picture) -> Markup {
        let ticks = ticks(self.series.iter().flat_map(|one| &one.values).copied().max().unwrap_or(0));
        let top = ticks.last().copied().unwrap_or(1).max(1) as f64;
        let y = |value: u64| TOP + (picture.height - BOTTOM - TOP) * (1.0 - value as f64 / top);
        let (first, end) = (self.days.first().map_or(0, |day| day.0), self.days.last().map_or(0, |day| day.0));
        let room = picture.width - LEFT - RIGHT;
        let x = |day: i64| {
            LEFT + if end == first { room / 2.0 } else { room * (day - first) as f64 / (end - first) as f64 }
        };
        let points = |one: &Series| {
            let points = self.days.iter().zip(&one.values);
            points.map(|((day, _), value)| format!("{:.1},{:.1}", x(*day), y(*value))).collect::<Vec<_>>().join(" ")
        };
        html! {
            @for value in &ticks {
                @let at = format!("{:.1}", y(*value));
                line class="grid" x1=(LEFT) x2=(picture.width - RIGHT) y1=(at) y2=(at) {}
                text class="axis" x=(LEFT - 8.0) y=(at) text-anchor="end" dominant-baseline="middle" { (bytes(*value)) }
            }
            @for (at, anchor) in self.named_days(picture.days) {
                @let (day, name) = &self.days[at];
                text class="axis" x=(format!("{:.1}", x(*day))) y=(picture.height - 6.0) text-anchor=(anchor) {
                    (name.get(5..).unwrap_or(name))
                }
            }
            @for one in self.series {
                @if let (1, Some(value)) = (self.days.len(), one.values.first()) {
                    circle class=(one.class) cx=(format!("{:.1}", x(first))) cy=(format!("{:.1}", y(*value))) r="4" {}
                } @else {
                    polyline class=(one.class) points=(points(one)) {}
                }
            }
            // What a pointer that rests over a day is shown.
            @for (at, (day, name)) in self.days.iter().enumerate() {
                @let before = if at == 0 { LEFT } else { (x(self.days[at - 1].0) + x(*day)) / 2.0 };
                @let behind = self.days.get(at + 1).map_or(picture.width - RIGHT, |next| (x(next.0) + x(*day)) / 2.0);
                rect class="day" x=(format!("{before:.1}")) y=(TOP) width=(format!("{:.1}", (behind - before).max(0.0))) height=(picture.height - BOTTOM - TOP) {
                    title { (name) @for one in self.series { "\n" (one.name) " " (one.values.get(at).map_or_else(String::new, |value| bytes(*value))) } }
                }
            }
        }
    }

    /// Returns the places of days to name, with where their names are anchored: evenly spread, the last one among them.
    fn named_days(&self, most: usize) -> Vec<(usize, &'static str)> {
        let last = self.days.len().saturating_sub(1);
        let count = self.days.len().min(most);
        let place = |n: usize| if count < 2 { last } else { n * last / (count - 1) };
        let anchor = |at: usize| match at {
            _ if last == 0 => "middle",
            0 => "start",
            at if at == last => "end",
            _ => "middle",
        };
        (0..count).map(|n| (place(n), anchor(place(n)))).collect()
    }
}

/// Counts, each as a column.
pub(super) struct Columns<'a> {
    /// What its parts are called in the document.
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// What each column is called.
    pub(super) names: &'a [String],
    pub(super) counts: &'a [u64],
}

impl Columns<'_> {
    pub(super) fn draw(&self) -> Markup {
        let (all, most) = (self.counts.iter().sum::<u64>(), self.counts.iter().copied().max().unwrap_or(0));
        let told = format!("{}: {} in all, {} at most.", self.title, count(all), count(most));
        chart(self.id, self.title, &told, &|picture| self.drawing(picture, most), &html! {})
    }

    fn drawing(&self, picture: &Picture, most: u64) -> Markup {
        let (bottom, height) = (picture.height - BOTTOM, picture.height - BOTTOM - TOP);
        let width = (picture.width - LEFT - RIGHT) / self.counts.len().max(1) as f64;
        let every = self.counts.len().div_ceil(picture.days).max(1);
        html! {
            @for (value, y) in [(0, bottom), (most, TOP)].into_iter().take(if most == 0 { 1 } else { 2 }) {
                line class="grid" x1=(LEFT) x2=(picture.width - RIGHT) y1=(y) y2=(y) {}
                text class="axis" x=(LEFT - 8.0) y=(y) text-anchor="end" dominant-baseline="middle" { (count(value)) }
            }
            @for (at, (name, value)) in self.names.iter().zip(self.counts).enumerate() {
                @let x = LEFT + width * at as f64;
                @let tall = height * *value as f64 / most.max(1) as f64;
                @if *value > 0 {
                    rect class="one" x=(format!("{:.1}", x + width * 0.1)) y=(format!("{:.1}", bottom - tall))
                        width=(format!("{:.1}", width * 0.8)) height=(format!("{tall:.1}")) {}
                }
                // What a pointer that rests over it is shown.
                rect class="day" x=(format!("{x:.1}")) y=(TOP) width=(format!("{width:.1}")) height=(height) {
                    title { (name) "\n" (count(*value)) }
                }
                @if (self.counts.len() - 1 - at).is_multiple_of(every) {
                    text class="axis" x=(format!("{:.1}", x + width)) y=(picture.height - 6.0) text-anchor="end" {
                        (name.get(5..).unwrap_or(name))
                    }
                }
            }
        }
    }
}

/// Draws counts as columns in a line of text, each beside the largest of them.
pub(super) fn spark(counts: &[u64]) -> Markup {
    let (all, most) = (counts.iter().sum::<u64>(), counts.iter().copied().max().unwrap_or(0));
    let told = format!("{} in all, {} at most", count(all), count(most));
    html! {
        svg class="spark" viewBox=(format!("0 0 {} 20", counts.len().max(1) * 3)) preserveAspectRatio="none" role="img" aria-label=(told) {
            title { (told) }
            rect class="rail" x="0" y="19" width=(counts.len() * 3) height="1" {}
            @for (at, value) in counts.iter().enumerate().filter(|(_, value)| **value > 0) {
                @let tall = (20.0 * *value as f64 / most as f64).max(2.0);
                rect class="one" x=(at * 3) y=(format!("{:.1}", 20.0 - tall)) width="2" height=(format!("{tall:.1}")) {}
            }
        }
    }
}

/// A bar: what it is, its value, and what stands beside it.
pub(super) struct Bar {
    pub(super) name: Markup,
    pub(super) value: u64,
    pub(super) note: String,
    pub(super) class: &'static str,
}

/// Draws bars one below the other, the longest as wide as there is room.
pub(super) fn bars(title: &str, bars: &[Bar]) -> Markup {
    let most = bars.iter().map(|bar| bar.value).max().unwrap_or(0).max(1);
    html! {
        table class="bars" role="table" {
            caption { (title) }
            tbody role="rowgroup" {
                @for bar in bars {
                    tr role="row" {
                        th scope="row" role="rowheader" { (bar.name) }
                        td class="bar" role="presentation" {
                            svg viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true" {
                                rect class="rail" x="0" y="0" width="100" height="10" {}
                                rect class=(bar.class) x="0" y="0" height="10"
                                    width=(format!("{:.2}", 100.0 * bar.value as f64 / most as f64)) {}
                            }
                        }
                        td class="number" role="cell" { (bytes(bar.value)) }
                        td class="note" role="cell" { (bar.note) }
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
        let days = [(1, "2026-11-01"), (2, "2026-11-02"), (9, "2026-11-09")].map(|(day, name)| (day, name.to_owned()));
        let drawn = Lines { id: "c", title: "t", days: &days, series: &series }.draw().into_string();
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"), "{drawn}");
        assert_eq!(drawn.matches("<polyline").count(), 2 * PICTURES.len());
        for points in drawn.split("points=\"").skip(1) {
            for point in points.split('"').next().unwrap().split(' ') {
                let (x, y) = point.split_once(',').unwrap();
                let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
                assert!((0.0..=960.0).contains(&x) && (0.0..=280.0).contains(&y), "{point}");
            }
        }
        let empty = Lines { id: "c", title: "t", days: &[], series: &[] }.draw().into_string();
        assert!(empty.contains("<svg"));
    }

    #[test]
    fn columns_stay_within_the_picture() {
        let names: Vec<String> = (0..48).map(|hour| format!("2026-11-28 {:02}:00", hour % 24)).collect();
        let counts: Vec<u64> = (0..48).map(|hour| if hour % 5 == 0 { 0 } else { hour * 1000 }).collect();
        let columns = Columns { id: "h", title: "t", names: &names, counts: &counts };
        let drawn = columns.draw().into_string();
        assert!(!drawn.contains("NaN") && drawn.contains(&format!("{} at most", count(47_000))), "{drawn}");
        assert_eq!(drawn.matches("class=\"one\"").count(), 38 * PICTURES.len());
        for (part, most) in [(" x=\"", 960.0), (" y=\"", 280.0), (" height=\"", 280.0)] {
            for value in drawn.split(part).skip(1) {
                let value: f64 = value.split('"').next().unwrap().parse().unwrap();
                assert!((0.0..=most).contains(&value), "{part}{value}");
            }
        }
        let none = Columns { counts: &[0; 48], ..columns }.draw().into_string();
        assert!(!none.contains("class=\"one\"") && none.contains("0 in all"), "{none}");

        let small = spark(&counts).into_string();
        assert_eq!(small.matches("class=\"one\"").count(), 38);
        assert!(small.contains(&format!("aria-label=\"{} in all", count(counts.iter().sum()))), "{small}");
        for none in [spark(&[]), spark(&[0; 3])] {
            let none = none.into_string();
            assert!(!none.contains("class=\"one\"") && !none.contains("NaN"), "{none}");
        }
    }

    #[test]
    fn grids_are_round_and_hold_all() {
        let gib = 1u64 << 30;
        assert_eq!(ticks(gib * 8 / 5), [0, gib / 2, gib, gib * 3 / 2, gib * 2]);
        for most in [0, 1, 3, 1023, 1024, 5 << 20, 999 << 20, 1023 << 20, 7 << 40, u64::MAX / 2] {
            let ticks = ticks(most);
            assert!((2..=6).contains(&ticks.len()), "{most}: {ticks:?}");
            assert!(*ticks.last().unwrap() >= most && ticks.is_sorted(), "{most}: {ticks:?}");
        }
    }
}
