//! Tables that fit the terminal. Columns that do not fit beside each other come as several tables, one below the other.

use comfy_table::{Table, presets};
use console::{measure_text_width, truncate_str};

/// Most columns of the terminal that a text takes, however wide the terminal is.
const LONGEST: usize = 80;

/// A column of a table.
#[derive(Debug, Clone)]
pub(super) struct Column {
    name: String,
    cells: Vec<String>,
    /// The width that the cells may be shortened to.
    least: usize,
}

impl Column {
    /// A column whose cells are shown whole, such as numbers.
    pub(super) fn new(name: &str, cells: Vec<String>) -> Self {
        let mut column = Column { name: line(name), cells, least: 0 };
        column.least = column.width();
        column
    }

    /// A column of texts, of which the beginning is shown: at least as much as fits `least` columns of the terminal.
    pub(super) fn texts(name: &str, texts: Vec<String>, least: usize) -> Self {
        let cells: Vec<String> = texts.iter().map(|text| line(text)).collect();
        let column = Column { name: line(name), cells, least };
        Column { least: least.max(measure_text_width(&column.name)).min(column.width()), ..column }
    }

    fn width(&self) -> usize {
        let widths = self.cells.iter().chain([&self.name]).map(|text| measure_text_width(text));
        widths.max().unwrap_or(0).min(LONGEST)
    }

    /// The column, no wider than `width`.
    fn shortened(&self, width: usize) -> Self {
        let shorten = |text: &String| truncate_str(text, width.min(LONGEST), "…").into_owned();
        Column { name: shorten(&self.name), cells: self.cells.iter().map(shorten).collect(), ..*self }
    }
}

/// A text on one line, without control characters.
fn line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The width that a column adds to its cells: a space before and after, and one between two columns.
const AROUND: usize = 3;
/// The width of both borders, minus the space between columns that the last column does not need.
const BORDERS: usize = 1;

/// The columns as one table if they fit `width` columns of the terminal. Otherwise each group begins a table of its own, and
/// is divided further where it does not fit either. Each table begins with the column `first`.
pub(super) fn fit(first: &Column, groups: &[Vec<Column>], width: usize) -> Vec<Table> {
    let room = width.saturating_sub(BORDERS + first.least + AROUND);
    // Not even a name may break the table.
    let least = |column: &Column| column.least.min(room.saturating_sub(AROUND));
    let need = |columns: &[&Column]| columns.iter().map(|column| least(column) + AROUND).sum::<usize>();
    let all: Vec<&Column> = groups.iter().flatten().collect();
    let mut tables: Vec<Vec<&Column>> = Vec::new();
    if need(&all) <= room {
        tables.push(all);
    } else {
        for group in groups {
            let mut table = Vec::new();
            for column in group {
                if !table.is_empty() && need(&table) + need(&[column]) > room {
                    tables.push(std::mem::take(&mut table));
                }
                table.push(column);
            }
            tables.extend(Some(table).filter(|table| !table.is_empty()));
        }
    }
    let fitted = |columns: Vec<&Column>| {
        let left = room.saturating_sub(need(&columns));
        let columns = columns.into_iter().map(|column| column.shortened(least(column) + left));
        draw(&std::iter::once(first.clone()).chain(columns).collect::<Vec<_>>())
    };
    tables.into_iter().map(fitted).collect()
}

fn draw(columns: &[Column]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_BORDERS_ONLY);
    table.set_header(columns.iter().map(|column| column.name.clone()));
    let rows = columns.iter().map(|column| column.cells.len()).max().unwrap_or(0);
    for row in 0..rows {
        table.add_row(columns.iter().map(|column| column.cells.get(row).cloned().unwrap_or_default()));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(name: &str, cell: &str) -> Column {
        Column::new(name, vec![cell.to_owned(); 2])
    }

    fn drawn(groups: &[Vec<Column>], width: usize) -> Vec<String> {
        let tables = fit(&numbers("candidate", "0"), groups, width);
        let tables: Vec<String> = tables.iter().map(ToString::to_string).collect();
        for line in tables.iter().flat_map(|table| table.lines()) {
            assert!(measure_text_width(line) <= width, "{} > {width}: {line}", measure_text_width(line));
        }
        tables
    }

    #[test]
    fn a_table_is_as_wide_as_it_may_be_and_no_wider() {
        let texts = |length| Column::texts("response", vec!["word ".repeat(length), "短い".into()], 20);
        let groups = |length| {
            let metrics = ["helpfulness", "interactivity", "token_amount"].map(|name| numbers(name, "0.940 ± 0.050"));
            vec![
                vec![numbers("reward", "1.519 ± 0.227"), numbers("95% interval", "[-0.796, -2.241]"), texts(length)],
                metrics.to_vec(),
            ]
        };
        for width in 60..220 {
            for length in [0, 1, 5, 100] {
                let tables = drawn(&groups(length), width);
                let one = 1 + [9, 13, 16, 20, 13, 13, 13].iter().map(|width| width + AROUND).sum::<usize>();
                if length == 100 {
                    assert_eq!(tables.len() == 1, width >= one, "at {width}");
                    let widest = tables.iter().flat_map(|table| table.lines()).map(measure_text_width).max().unwrap();
                    assert!(widest == width || widest == one + LONGEST - 20, "the text takes what is left at {width}");
                }
                for table in &tables {
                    assert!(table.lines().nth(1).unwrap().starts_with("│ candidate "), "{table}");
                    assert!(!table.contains("0.9…") && table.lines().count() == 6, "numbers are whole: {table}");
                }
            }
        }
    }

    #[test]
    fn what_stands_in_a_text_does_not_break_the_table() {
        let hostile = "line\nend\ttab \u{1b}[31mred\u{7} 日本語日本語日本語日本語 👩‍👩‍👧 ".repeat(9);
        let names = vec![numbers(&"metric".repeat(40), "1.000")];
        let tables = drawn(&[vec![Column::texts("response", vec![hostile.clone(), hostile], 20)], names], 100);
        assert_eq!(tables.len(), 2);
        for table in tables {
            assert!(table.lines().count() == 6 && !table.contains('\u{1b}') && !table.contains('\t'), "{table}");
        }
    }
}
