// Posts each event to the nginx that nobody listens at, over connections that are kept.

import http from "node:http";

import { runAll } from "../lib/publisher.js";

const [, , port, work] = process.argv;
const agent = new http.Agent({ keepAlive: true });

function publish(user, event) {
  const options = { host: "127.0.0.1", port, agent, method: "POST", path: `/pub?user=${user}` };
  return new Promise((resolve, reject) => {
    const request = http.request(options, (response) => {
      response.resume().once("end", () => {
        if (response.statusCode < 300) resolve();
        else reject(new Error(`nchan answered ${response.statusCode}`));
      });
    });
    request.once("error", reject).end(JSON.stringify(event));
  });
}

await runAll(JSON.parse(work), publish);
agent.destroy();
