//! Tables: one way to write them, so that every one has a name, headers with a scope, and room on a phone, where each row
//! becomes a card whose figures carry their columns' names.

use maud::{Markup, Render, html};

/// A column: its name, and the class of its cells.
pub(super) struct Column {
    name: &'static str,
    class: Option<&'static str>,
    /// Where a click on the name leads, and whether the rows are in that order already.
    sort: Option<(String, bool)>,
}

impl Column {
    pub(super) const fn text(name: &'static str) -> Self {
        Self { name, class: None, sort: None }
    }

    pub(super) const fn number(name: &'static str) -> Self {
        Self { name, class: Some("number"), sort: None }
    }

    /// Returns a column of numbers by which the rows can be sorted, the largest first.
    pub(super) fn sorted(name: &'static str, url: String, is_current: bool) -> Self {
        Self { name, class: Some("number"), sort: Some((url, is_current)) }
    }
}

/// Writes anything that can be shown as a cell.
pub(super) fn cell(content: impl Render) -> Markup {
    html! { (content) }
}

/// Writes a table. The first cell of each row is its header; `caption` says what the table is to those who can't see it.
pub(super) fn table(caption: &str, columns: &[Column], rows: impl IntoIterator<Item = Vec<Markup>>) -> Markup {
    // Laid out as cards, a table is none any more to some browsers unless its parts say so.
    html! {
        div class="wide" role="region" aria-label=(caption) tabindex="0" {
            table class="rows" role="table" {
                caption class="hidden" { (caption) }
                thead role="rowgroup" { tr role="row" {
                    @for column in columns {
                        @let is_sorted = column.sort.as_ref().is_some_and(|(_, current)| *current);
                        th scope="col" role="columnheader" class=[column.class] aria-sort=[is_sorted.then_some("descending")] {
                            @match &column.sort {
                                Some((url, false)) => a href=(url) { (column.name) },
                                Some((_, true)) => { (column.name) " ↓" },
                                None => (column.name),
                            }
                        }
                    }
                } }
                tbody role="rowgroup" {
                    @for row in rows {
                        tr role="row" {
                            @for (column, content) in columns.iter().zip(&row).take(1) {
                                th scope="row" role="rowheader" class=[column.class] { (content) }
                            }
                            @for (column, content) in columns.iter().zip(&row).skip(1) {
                                td role="cell" class=[column.class] data-label=(column.name) { (content) }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Writes facts, one below the other: what each is, and its value.
pub(super) fn facts(caption: &str, rows: impl IntoIterator<Item = (&'static str, Markup)>) -> Markup {
    html! {
        table class="facts" {
            caption class="hidden" { (caption) }
            tbody { @for (name, value) in rows { tr { th scope="row" { (name) } td { (value) } } } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_carry_their_columns_names() {
        let columns =
            [Column::text("Name"), Column::number("Bytes"), Column::sorted("Paths", "/x?sort=paths".into(), true)];
        let text = table("Things", &columns, [vec![cell("<a>"), cell(1), cell(2)]]).into_string();
        for part in [
            "<th scope=\"row\" role=\"rowheader\">&lt;a&gt;</th>",
            "<td role=\"cell\" class=\"number\" data-label=\"Bytes\">1</td>",
            "aria-sort=\"descending\"",
            "aria-label=\"Things\"",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
