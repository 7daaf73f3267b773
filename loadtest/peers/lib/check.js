// The exact-delivery check: did one socket get every item of its task once, and its events in order? Pure.
//
// A frame, whoever sent it, is read into { task, attempt, seq, merged, current, items: [{ index, doneUs }], terminal }: `seq`
// counts the events of an attempt from 1, `merged` is how many events the frame stands for, `items` are those that ended with it.

/** Judges what one socket received of one task. */
export class Check {
  constructor() {
    [this.attempt, this.last] = [0, 0];
    this.current = 0;
    this.seen = new Set();
    this.terminal = false;
    this.faults = { lost: 0, doubled: 0, reordered: 0, backward: 0, foreign: 0 };
  }

  /** Judges the next frame. */
  frame({ task, attempt = 1, seq, merged = 1, current, items, terminal }) {
    this.task ??= task;
    if (task !== this.task) this.faults.foreign += 1;
    this.order(attempt, seq, merged, current);
    for (const { index } of items) {
      if (this.seen.has(index)) this.faults.doubled += 1;
      this.seen.add(index);
    }
    this.terminal ||= terminal;
  }

  order(attempt, seq, merged, current) {
    const { faults } = this;
    const last = attempt > this.attempt ? 0 : this.last;
    if (attempt < this.attempt || seq < last) faults.reordered += 1;
    else if (seq === last) faults.doubled += 1;
    else {
      faults.lost += Math.max(0, seq - last - merged);
      if (attempt === this.attempt && current < this.current) faults.backward += 1;
      Object.assign(this, { attempt, last: seq, current });
    }
  }

  /** The faults, once everything should be there, of a task with so many items. `unlisted`: items that were counted and not
   * named; only the record has those. */
  verdict(task, items) {
    const unlisted = Math.max(0, this.current - this.seen.size);
    const faults = { ...this.faults };
    faults.lost += Math.max(0, items - this.seen.size - unlisted) + (this.terminal ? 0 : 1);
    if (this.task !== task) faults.foreign += 1;
    return { faults, unlisted, exact: Object.values(faults).every((n) => n === 0) };
  }
}
