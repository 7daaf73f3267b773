// All sides. Each starts its processes (`start`), says how the client talks to them (`talk`) and what is kept of a result (`keeps`).

import * as bullmq from "./bullmq.js";
import { docket } from "./docket.js";
import { memory, milepost, origin } from "./milepost.js";
import { nchan } from "./nchan.js";
import { socketio } from "./socketio.js";

export const SIDES = {
  milepost,
  memory,
  "bullmq-progress": bullmq.progress,
  "bullmq-flow": bullmq.flow,
  docket,
  origin,
  socketio,
  nchan,
};
