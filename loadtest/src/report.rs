//! Figures as tables for people and as JSON for machines: medians over the runs. Not here: the chart ([`crate::chart`]).

use std::path::Path;

use anyhow::Result;
use comfy_table::{CellAlignment, presets};
use serde::Serialize;

use crate::chart;
use crate::machine::Machine;
use crate::spec::Scenario;

/// Named figures, in the order of their columns.
pub type Cells = Vec<(&'static str, f64)>;

/// Which table a row belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// Latency and throughput of a group of users.
    Work,
    /// What it took.
    Cost,
    /// Connecting, and being connected.
    Sockets,
    /// A gateway was killed.
    Storm,
}

impl Table {
    const ALL: [Self; 4] = [Self::Work, Self::Cost, Self::Sockets, Self::Storm];

    fn caption(self) -> &'static str {
        match self {
            Self::Work => {
                "From the end of an item to its arrival at a socket; a batch from its submit to the arrival of its end"
            }
            Self::Cost => {
                "What it took: processor time per 10,000 items and per frame, peak memory of a process, and calls per item"
            }
            Self::Sockets => "Connecting: sockets a second, and what one takes of the gateways",
            Self::Storm => {
                "A gateway was killed: connections that went on where they were, that began anew, and when the last was back"
            }
        }
    }
}

/// Figures of one run.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Which table it belongs to.
    pub table: Table,
    /// Mode, step and group.
    pub key: (&'static str, String, String),
    /// The step of a ramp.
    pub step: Option<usize>,
    /// Load average before it began.
    pub load: f64,
    /// Its figures.
    pub cells: Cells,
}

impl Row {
    /// The figure of that name.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.cells.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }

    /// The row on one line.
    pub fn line(&self) -> String {
        let (mode, step, group) = &self.key;
        let cells = self.cells.iter().map(|(name, value)| format!("{name} {}", text(*value)));
        format!("{mode} {step} {group}: {}; load {:.2}", cells.collect::<Vec<_>>().join(", "), self.load)
    }
}

/// All runs of a scenario.
#[derive(Debug, Serialize)]
pub struct Report {
    scenario: Scenario,
    machine: Machine,
    /// Figures of all runs, in the order they were made.
    pub rows: Vec<Row>,
    /// The statements that ran most often in the last run of each mode.
    pub statements: Vec<(&'static str, Vec<String>)>,
}

impl Report {
    /// An empty report.
    pub fn new(scenario: Scenario) -> Self {
        Self { scenario, machine: Machine::here(), rows: Vec::new(), statements: Vec::new() }
    }

    /// Prints the tables and writes them, the JSON and the chart into `folder`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        let file = |end: &str| folder.join(format!("{}.{end}", self.scenario.name));
        std::fs::write(file("json"), serde_json::to_string_pretty(self)? + "\n")?;
        let mut text = self.text();
        if !self.scenario.steps.is_empty() {
            std::fs::write(file("svg"), chart::latency_over_load(&self.scenario.name, &self.medians())?)?;
            text.push_str(&format!("\n![latency over load]({}.svg)\n", self.scenario.name));
        }
        std::fs::write(file("md"), &text)?;
        eprintln!("\n{text}");
        Ok(())
    }

    fn text(&self) -> String {
        let Machine { cpu, cores, kernel, commit } = &self.machine;
        let mut text = format!(
            "# {}\n\n{}; {} gateways and {} workers (memory: one process).\n\n{cores} x {cpu}, Linux {kernel}, commit {commit}. \
             Medians of the runs, all modes in turn in each run. Every\nrun passed the exact-delivery check: 0 lost, 0 doubled, \
             0 reordered, 0 backward at every socket, and the record agreed.\n",
            self.scenario.name, self.scenario.about, self.scenario.hub.gateways, self.scenario.hub.workers
        );
        let medians = self.medians();
        for table in Table::ALL {
            let rows: Vec<&Median> = medians.iter().filter(|row| row.table == table).collect();
            if !rows.is_empty() {
                text.push_str(&format!("\n{}:\n\n{}\n", table.caption(), draw(&rows)));
            }
        }
        text
    }

    /// Medians of the same rows of all runs.
    fn medians(&self) -> Vec<Median> {
        let mut medians: Vec<Median> = Vec::new();
        for row in &self.rows {
            if !medians.iter().any(|known| known.is_of(row)) {
                let same: Vec<&Row> = self.rows.iter().filter(|other| same(row, other)).collect();
                medians.push(Median::of(&same));
            }
        }
        medians
    }
}

fn same(a: &Row, b: &Row) -> bool {
    (a.table, &a.key) == (b.table, &b.key)
}

/// What several runs say together.
#[derive(Debug, Clone)]
pub struct Median {
    table: Table,
    key: (&'static str, String, String),
    load: f64,
    cells: Cells,
    runs: usize,
}

impl Median {
    fn of(rows: &[&Row]) -> Self {
        let first = rows[0];
        let over = |name: &str| median(rows.iter().filter_map(|row| row.figure(name)).collect());
        Self {
            table: first.table,
            key: first.key.clone(),
            load: median(rows.iter().map(|row| row.load).collect()),
            cells: first.cells.iter().map(|(name, _)| (*name, over(name))).collect(),
            runs: rows.len(),
        }
    }

    fn is_of(&self, row: &Row) -> bool {
        (self.table, &self.key) == (row.table, &row.key)
    }

    /// Its mode.
    pub fn mode(&self) -> &'static str {
        self.key.0
    }

    /// The figure of that name.
    pub fn figure(&self, name: &str) -> Option<f64> {
        self.cells.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
    }
}

fn draw(rows: &[&Median]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    let names = rows[0].cells.iter().map(|(name, _)| *name);
    table.set_header(["mode", "step", "users"].into_iter().chain(names).chain(["load", "runs"]));
    for row in rows {
        let (mode, step, group) = &row.key;
        let figures = row.cells.iter().map(|(_, value)| text(*value));
        let ends = [format!("{:.1}", row.load), row.runs.to_string()];
        table.add_row(
            [(*mode).to_owned(), step.clone(), group.clone()].into_iter().chain(figures).chain(ends),
        );
    }
    for column in table.column_iter_mut().skip(3) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// As many digits as a figure has something to say with.
pub fn text(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        small if small < 0.1 => format!("{value:.4}"),
        small if small < 10.0 => format!("{value:.2}"),
        middle if middle < 1_000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// The one in the middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(mode: &'static str, value: f64) -> Row {
        let key = (mode, String::new(), "users".to_owned());
        Row { table: Table::Work, key, step: None, load: 1.0, cells: vec![("p50 ms", value)] }
    }

    #[test]
    fn medians_are_of_the_same_rows() {
        let mut report = Report::new(Scenario::find("progress").unwrap());
        report.rows = vec![row("redis", 3.0), row("memory", 1.0), row("redis", 9.0), row("redis", 4.0)];
        let medians = report.medians();
        let seen: Vec<_> = medians.iter().map(|m| (m.mode(), m.figure("p50 ms"), m.runs)).collect();
        assert_eq!(seen, [("redis", Some(4.0), 3), ("memory", Some(1.0), 1)]);
        assert!(report.text().contains("| redis  |"), "{}", report.text());
    }

    #[test]
    fn figures_have_the_digits_that_say_something() {
        let texts = [0.0, 0.012_34, 1.234, 123.45, 12_345.6].map(text);
        assert_eq!(texts, ["0", "0.0123", "1.23", "123.5", "12346"]);
    }
}
