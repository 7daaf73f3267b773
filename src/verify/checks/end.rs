//! Numbers at the end of a run.

use crate::verify::history::History;
use crate::verify::record::GaugeKind;
use crate::verify::report::Finding;

/// I10.
pub(super) fn no_backlog(history: &History, finding: &mut Finding) {
    within(history, GaugeKind::Backlog, finding);
}

/// I11.
pub(super) fn sizes_bounded(history: &History, finding: &mut Finding) {
    within(history, GaugeKind::Size, finding);
}

/// I14.
pub(super) fn no_leaks(history: &History, finding: &mut Finding) {
    within(history, GaugeKind::Leak, finding);
}

fn within(history: &History, kind: GaugeKind, finding: &mut Finding) {
    for (place, gauge) in history.gauges.iter().filter(|(_, gauge)| gauge.kind == kind) {
        finding.checked += 1;
        if gauge.value > gauge.max || gauge.value.is_nan() {
            finding.add(
                *place,
                format!("{} is {} at the end, and may be {}", gauge.name, gauge.value, gauge.max),
            );
        }
    }
}
