// The event that every peer sends for an item, with the fields of Milepost's own frame, so that all sides move the same bytes.

/** Microseconds since the Unix epoch; all processes of a run share one clock. */
export function nowUs() {
  return Math.round((performance.timeOrigin + performance.now()) * 1000);
}

/** An item ended just now, as the `seq`th of `total`. */
export function itemEnded(task, index, name, seq, total) {
  const doneUs = nowUs();
  return {
    task_id: task,
    attempt: 1,
    seq,
    type: "progress",
    status: "running",
    action: "wait",
    cluster: "local",
    current: seq,
    total,
    succeeded: seq,
    failed: 0,
    skipped: 0,
    cancelled: 0,
    progress: Math.floor((100 * seq) / total),
    current_node: name,
    items: [{ index, name, state: "succeeded", effect: "changed", done_us: doneUs, tries: 1 }],
    timestamp: new Date(doneUs / 1000).toISOString(),
  };
}

/** All items of a task have ended. */
export function taskEnded(task, total) {
  const counts = { current: total, total, succeeded: total, failed: 0, skipped: 0, cancelled: 0, progress: 100 };
  return { task_id: task, attempt: 1, seq: total + 1, type: "complete", status: "completed", ...counts, items: [] };
}

/** A frame with such an event, as the check reads it. */
export function readEvent(event) {
  return {
    task: event.task_id,
    attempt: event.attempt,
    seq: event.seq,
    merged: event.merged ?? 1,
    current: event.current,
    items: (event.items ?? []).filter((item) => item.done_us).map((item) => ({ index: item.index, doneUs: item.done_us })),
    terminal: event.type === "complete" || event.type === "error",
  };
}
