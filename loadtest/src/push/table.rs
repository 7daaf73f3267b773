//! The figures of all runs: kept in a file, part by part, so that one part can be measured again; and as tables of medians.

use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::report::{median, text};

/// Names of the parts in the order of their tables, with what each shows.
const PARTS: [(&str, &str); 4] = [
    (
        "connecting",
        "Connecting with a verified token, and what a socket takes of the gateway once it idles. For sockets of many users each \
         one has its user's stream followed; kB are those of resident memory, all of the gateway's own state included",
    ),
    (
        "events",
        "From a publish, of which there are so many a second, to the socket of its user, through Redis. Processor time of the gateway \
         for each event that arrived, with all that it does beside",
    ),
    (
        "fan-out",
        "One event, or 16 at once, to all sockets of one user; and a process that does nothing but write the same bytes to as \
         many plain sockets",
    ),
    (
        "storm",
        "A gateway is killed under 9,000 sockets while events flow; each comes back to the other one within a second or as \
         soon as it is let in, and goes on where it was",
    ),
];

/// Figures of one run of one part.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    part: String,
    name: String,
    load: f64,
    commit: String,
    /// Named figures, in the order of their columns.
    pub cells: Vec<(String, f64)>,
    /// What else is worth keeping.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Run {
    /// Figures of this commit.
    pub fn new(part: &str, name: &str, load: f64, cells: Vec<(&str, f64)>) -> Self {
        Self {
            part: part.to_owned(),
            name: name.to_owned(),
            load,
            commit: Machine::here().commit,
            cells: cells.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
            notes: Vec::new(),
        }
    }

    /// All of it on one line.
    pub fn line(&self) -> String {
        let cells: Vec<_> =
            self.cells.iter().map(|(name, value)| format!("{name} {}", text(*value))).collect();
        format!("{}, {}: {}; load {:.2}", self.part, self.name, cells.join(", "), self.load)
    }

    fn key(&self) -> (&str, &str) {
        (&self.part, &self.name)
    }
}

/// The figures of all runs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Figures {
    cpu: String,
    cores: usize,
    kernel: String,
    runs: Vec<Run>,
}

impl Figures {
    /// Those that are there, if they are from this machine.
    ///
    /// # Errors
    /// When the file is not ours.
    pub fn read(folder: &Path) -> Result<Self> {
        let Machine { cpu, cores, kernel, .. } = Machine::here();
        let fresh = Self { cpu, cores, kernel, runs: Vec::new() };
        let Ok(text) = std::fs::read_to_string(folder.join("gateway.json")) else { return Ok(fresh) };
        let known: Self = serde_json::from_str(&text).context("gateway.json")?;
        let here = (&known.cpu, known.cores, &known.kernel) == (&fresh.cpu, fresh.cores, &fresh.kernel);
        Ok(if here { known } else { fresh })
    }

    /// Puts these runs in the place of older ones of the same name.
    pub fn replace(&mut self, runs: Vec<Run>) {
        self.runs.retain(|old| !runs.iter().any(|new| new.key() == old.key()));
        self.runs.extend(runs);
    }

    /// Prints the tables, and writes them and the runs into `folder`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("gateway.json"), serde_json::to_string_pretty(self)? + "\n")?;
        let text = self.text();
        std::fs::write(folder.join("gateway.md"), &text)?;
        eprintln!("\n{text}");
        Ok(())
    }

    fn text(&self) -> String {
        let mut text = format!(
            "# gateway\n\nOne gateway with a Redis and a Postgres of its own, and nothing that runs tasks: `milepost-loadtest push` \
             publishes. It,\nthe servers and the gateway share {} x {}, Linux {}. Medians of the\nruns; the load average is that \
             before each. Every socket checked each frame: none was lost, doubled, out of order or\nsomebody else's.\n",
            self.cores, self.cpu, self.kernel
        );
        for (part, caption) in PARTS {
            let runs: Vec<&Run> = self.runs.iter().filter(|run| run.part == part).collect();
            if !runs.is_empty() {
                text.push_str(&format!("\n## {part}\n\n{caption}.\n\n{}\n", table(&runs)));
            }
        }
        text
    }
}

fn table(runs: &[&Run]) -> Table {
    let mut names: Vec<&str> = Vec::new();
    let (mut rows, mut columns): (Vec<&str>, Vec<&str>) = (Vec::new(), Vec::new());
    for run in runs {
        if !rows.contains(&run.name.as_str()) {
            rows.push(&run.name);
        }
        for (name, _) in &run.cells {
            if !columns.contains(&name.as_str()) {
                columns.push(name);
            }
        }
    }
    names.extend(["what"]);
    names.extend(&columns);
    names.extend(["load", "runs", "commit"]);
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header(names);
    table.column_iter_mut().skip(1).for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    for row in rows {
        let same: Vec<&&Run> = runs.iter().filter(|run| run.name == row).collect();
        let mut cells = vec![row.to_owned()];
        cells.extend(columns.iter().map(|column| {
            let figure =
                |run: &&&Run| run.cells.iter().find(|(name, _)| name == column).map(|(_, value)| *value);
            let values: Vec<f64> = same.iter().filter_map(figure).collect();
            if values.is_empty() { String::new() } else { text(median(values)) }
        }));
        cells.push(format!("{:.1}", median(same.iter().map(|run| run.load).collect())));
        cells.extend([same.len().to_string(), same[0].commit.clone()]);
        table.add_row(cells);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, value: f64) -> Run {
        Run::new("fan-out", name, 0.5, vec![("us/frame", value)])
    }

    #[test]
    fn what_is_measured_again_takes_the_place_of_what_was() {
        let mut figures = Figures { cpu: "c".into(), cores: 2, kernel: "k".into(), runs: Vec::new() };
        figures.replace(vec![run("gateway", 9.0), run("plain", 1.0)]);
        figures.replace(vec![run("gateway", 3.0), run("gateway", 5.0), run("gateway", 4.0)]);
        let text = figures.text();
        let row = |name: &str| {
            text.lines().find(|line| line.starts_with(&format!("| {name} "))).unwrap().to_owned()
        };
        assert!(row("gateway").contains("4.00"), "{text}");
        assert!(row("plain").contains("1.00"), "{text}");
    }
}
