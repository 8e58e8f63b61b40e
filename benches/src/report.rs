//! Figures as tables that Markdown takes as they are.

use std::time::Duration;

/// A table; printed when it is whole, so that its columns stand in line.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Begins a table with its columns' names.
    pub(crate) fn new(names: &[&str]) -> Self {
        Self { rows: vec![names.iter().map(|&name| name.to_owned()).collect()] }
    }

    /// Adds a row, and says on standard error that it is there: whole tables take long.
    pub(crate) fn row(&mut self, cells: Vec<String>) {
        eprintln!("  {}", cells.join("  "));
        self.rows.push(cells);
    }

    /// Returns the table; the first column stands left, all others right.
    pub(crate) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
                .max(3)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut text = String::new();
        for (line, row) in self.rows.iter().enumerate() {
            for (column, &width) in widths.iter().enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                text += &if column == 0 { format!("| {cell:<width$} ") } else { format!("| {cell:>width$} ") };
            }
            text += "|\n";
            if line == 0 {
                for (column, &width) in widths.iter().enumerate() {
                    text += &if column == 0 {
                        format!("|{:-<1$}", "", width + 2)
                    } else {
                        format!("|{:-<1$}:", "", width + 1)
                    };
                }
                text += "|\n";
            }
        }
        text
    }
}

/// Times of single requests.
pub(crate) struct Latencies {
    sorted: Vec<Duration>,
}

impl Latencies {
    /// Takes the times of requests in any order.
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self { sorted: times }
    }

    /// Returns those of several runs together.
    pub(crate) fn of_all(runs: Vec<Self>) -> Self {
        Self::new(runs.into_iter().flat_map(|run| run.sorted).collect())
    }

    /// Returns how many there are.
    pub(crate) fn count(&self) -> usize {
        self.sorted.len()
    }

    /// Returns the time in milliseconds that this share of the requests did not exceed (nearest rank).
    pub(crate) fn milliseconds(&self, share: f64) -> f64 {
        let rank = (share * self.sorted.len() as f64).ceil().max(1.0) as usize;
        self.sorted.get(rank - 1).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let times = Latencies::new((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!((times.count(), times.milliseconds(0.5), times.milliseconds(0.99)), (200, 100.0, 198.0));
        assert_eq!(Latencies::new(vec![Duration::from_millis(7)]).milliseconds(0.01), 7.0);
        assert!(Latencies::new(Vec::new()).milliseconds(0.5).is_nan());
    }

    #[test]
    fn tables_stand_in_line() {
        let mut table = Table::new(&["phase", "n"]);
        table.row(vec!["upload".to_owned(), "12345".to_owned()]);
        assert_eq!(table.text(), "| phase  |     n |\n|--------|------:|\n| upload | 12345 |\n");
    }
}
