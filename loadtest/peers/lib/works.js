// The works: the same for all sides that can do them.

export const WORKS = {
  paced: {
    about: "1 batch of 1,000 items x 5 ms on 20 lanes, one watching socket",
    sides: ["milepost", "memory", "bullmq-progress", "bullmq-flow", "docket", "origin"],
    batch: { items: 1_000, itemMs: 5, lanes: 20 },
  },
  burst: {
    about: "1 batch of 10,000 items that take no time on 20 lanes, one watching socket",
    sides: ["milepost", "memory", "bullmq-progress", "bullmq-flow", "docket", "origin"],
    batch: { items: 1_000, itemMs: 0, lanes: 20 },
  },
  crowd: {
    about: "10,000 users connected; some of them are told of items that take 100 ms each: 100 users on one lane, 600 on one lane, 100 on six lanes",
    sides: ["milepost", "socketio", "nchan"],
    connected: 10_000,
    steps: [
      { name: "1,000/s to 100 users", users: 100, items: 100, itemMs: 100, lanes: 1 },
      { name: "6,000/s to 600 users", users: 600, items: 100, itemMs: 100, lanes: 1 },
      { name: "6,000/s to 100 users", users: 100, items: 600, itemMs: 100, lanes: 6 },
    ],
  },
};

/** The batch before the measured one, so that no side is judged by its first use of its code. */
export const WARM_UP = { items: 1_000, itemMs: 0, lanes: 20 };
