//! Tables: columns as wide as their widest cell, two blanks between them.

use super::words::clean;

/// A table that is filled row by row.
#[derive(Debug, Clone)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these headings.
    pub fn new<const N: usize>(headings: [&str; N]) -> Self {
        Self { rows: vec![headings.map(|heading| heading.to_uppercase()).to_vec()] }
    }

    /// A table without headings, for names and what they stand for.
    pub fn plain() -> Self {
        Self { rows: Vec::new() }
    }

    /// Adds a row. Control characters are taken out: cells may hold what programs said.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) -> &mut Self {
        self.rows.push(cells.iter().map(|cell| clean(cell)).collect());
        self
    }

    /// The lines, each indented by so many blanks.
    pub fn indented(&self, blanks: usize) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            let line = format!("{:blanks$}{}", "", cells.join("  "));
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.indented(0).trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_end_without_blanks() {
        let mut table = Table::new(["name", "state", "detail"]);
        table.row(["n1".into(), "connected".into(), "-".into()]);
        table.row(["größer".into(), "away".into(), String::new()]);
        assert_eq!(table.to_string(), "NAME    STATE      DETAIL\nn1      connected  -\ngrößer  away");
        assert_eq!(Table::plain().row(["a".into(), "b\u{1b}[31m".into()]).indented(2), "  a  b [31m\n");
    }
}
